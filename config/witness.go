package config

import (
	"net/url"
	"time"

	"assay/internal/fault"
)

// maxWitnesses bounds the cosignatures on a checkpoint.
const maxWitnesses = 16

func (t Tlog) validate() error {
	if len(t.Witnesses) > maxWitnesses {
		return fault.Newf(fault.Invalid, "tlog.witnesses: %d of them, want at most %d", len(t.Witnesses), maxWitnesses)
	}
	for i, w := range t.Witnesses {
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Scheme != "https" && u.Scheme != "http") {
			return fault.Newf(fault.Invalid, "tlog.witnesses[%d].url: want https://HOST[/PATH]", i)
		}
		if w.VKey == "" {
			return fault.Newf(fault.Invalid, "tlog.witnesses[%d].vkey: want the witness's verifier key, as it prints it", i)
		}
	}
	switch {
	case t.WitnessQuorum < 0 || t.WitnessQuorum > len(t.Witnesses):
		return fault.Newf(fault.Invalid, "tlog.witness_quorum %d: want 0 to the number of witnesses, which is %d", t.WitnessQuorum, len(t.Witnesses))
	case t.WitnessWait < 0 || t.WitnessWait > 30*time.Second:
		return fault.Newf(fault.Invalid, "tlog.witness_wait %s: want 0s to 30s; every entry waits for it while witnesses are away", t.WitnessWait)
	case t.WitnessOutage != "" && t.WitnessOutage != "degrade" && t.WitnessOutage != "refuse":
		return fault.Newf(fault.Invalid, "tlog.witness_outage %.40q: want degrade or refuse", t.WitnessOutage)
	}
	return nil
}
