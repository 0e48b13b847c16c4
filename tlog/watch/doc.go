// Package watch looks at a site from outside: that its logs only grow, that the
// heads of its audit chain are those that it logged, and who signs there. What
// it has seen it keeps in files of its own, away from the site.
package watch
