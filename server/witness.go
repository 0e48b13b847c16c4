package server

import (
	"context"
	"crypto"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"assay/api"
	"assay/client"
	"assay/event"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/store"
	"assay/tlog"
)

// keyWitness signs checkpoints beside the log's own key, with Ed25519: most
// witnesses know that type alone (C2SP signed-note, type 1), and clients of
// Rekor want P-256. It is no key of the log: no trusted root has it.
const keyWitness = "log-witness"

// witnessKeys are the keys of the configured witnesses.
func (s *Server) witnessKeys() (out []*tlog.WitnessKey, err error) {
	for i, w := range s.cfg.Tlog.Witnesses {
		k, err := tlog.ParseWitnessKey(w.VKey)
		if err != nil {
			return nil, fmt.Errorf("tlog.witnesses[%d]: %w", i, err)
		}
		out = append(out, k)
	}
	return out, nil
}

// openWitnesses gives whom the log asks for cosignatures, and makes the key that
// they know it by.
func (s *Server) openWitnesses(ctx context.Context, keys *keyring.Folder) (tlog.Witnesses, error) {
	t := s.cfg.Tlog
	o := tlog.Witnesses{
		Quorum: t.WitnessQuorum, Wait: t.WitnessWait, Refuse: t.WitnessOutage == "refuse",
		Client:  &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Changed: func(st tlog.WitnessState) { s.witnessing.Store(&st) },
	}
	known, err := s.witnessKeys()
	if err != nil || len(known) == 0 {
		return tlog.Witnesses{}, err
	}
	for i, k := range known {
		o.All = append(o.All, tlog.Witness{URL: t.Witnesses[i].URL, Key: k})
	}
	s.witnessKey, err = keys.LoadOrCreateEd25519(ctx, keyWitness)
	return o, err
}

// cosigner adds the key that witnesses know to the log's keys.
func (s *Server) cosigner(in []crypto.Signer) []crypto.Signer {
	if s.witnessKey == nil {
		return in
	}
	return append(in, s.witnessKey)
}

// tellWitnessing writes an event when checkpoints lose or regain their quorum.
func (s *Server) tellWitnessing(ctx context.Context) error {
	st := s.witnessing.Load()
	if st == nil || st == s.witnessTold {
		return nil
	}
	kind := event.LogWitnessed
	if !st.Reached {
		kind = event.LogUnwitnessed
	} else if s.witnessTold == nil { // as it should be from the start
		s.witnessTold = st
		return nil
	}
	missing := []string{}
	for _, name := range slices.Sorted(maps.Keys(st.Missing)) {
		missing = append(missing, fmt.Sprintf("%.100s: %.300s", name, st.Missing[name]))
	}
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: kind, Actor: "system:server", Body: map[string]any{
			"size": st.Size, "have": st.Have, "missing": missing, "quorum": s.cfg.Tlog.WitnessQuorum,
			"outage": s.cfg.Tlog.WitnessOutage,
		}})
	})
	if err == nil {
		s.witnessTold = st
	}
	return err
}

// witnessEvery is how often a change is looked for.
const witnessEvery = time.Second

// vkeys answers GET /v1/log/vkeys on the admin socket: how witnesses and
// monitors know this site's logs.
func (s *Server) vkeys(w http.ResponseWriter, r *http.Request) {
	if s.tlog == nil {
		api.WriteError(w, r, s.log, fault.Newf(fault.NotFound, "this process has no log"))
		return
	}
	var out []client.VKey
	add := func(use, origin string, pub crypto.PublicKey) error {
		v, err := tlog.VKey(origin, pub)
		out = append(out, client.VKey{Use: use, VKey: v})
		return err
	}
	err := add("log", s.tlog.Origin(), s.tlog.Public())
	if err == nil && s.witnessKey != nil {
		err = add("witness", s.tlog.Origin(), s.witnessKey.Public())
	}
	if err != nil {
		api.WriteError(w, r, s.log, err)
		return
	}
	api.WriteJSON(w, http.StatusOK, out)
}
