// Package slo says how well a site does: indicators counted from its events and
// from what runs, held against objectives.
//
// # Counting
//
// What is counted is a [Sample]: so many good, so many bad, so many of which it is
// not known, at a minute, of a [Place]. Samples are added to roll-ups of a minute
// and of an hour, for the whole site and for each team, service, environment,
// cluster, release and kind of artifact by itself: seven rows for a sample, not
// their product. Of each indicator and dimension [MaxValues] values have
// rows of their own; further ones are counted together, under [Other], so that no
// name that somebody pushes makes the tables grow.
//
// Minutes of the site are kept for 35 days and of its parts for 2, hours for 400
// ([Retention]). A window is read from the hours that lie in it whole, and from
// the minutes at its ends.
//
// # Unknown
//
// A number with an unknown part shows it, and an unknown thing is never counted as
// good: the value of a ratio is good / (good + bad + unknown).
//
// docs/slo.md defines each indicator with its denominator.
package slo
