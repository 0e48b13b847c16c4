package tlog

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
)

// Witness is a party that cosigns checkpoints (C2SP tlog-witness).
type Witness struct {
	URL string // prefix of "/add-checkpoint"
	Key *WitnessKey
}

// Witnesses are asked for their cosignature on each checkpoint before it is
// published.
type Witnesses struct {
	All []Witness
	// Quorum is how many distinct witnesses a checkpoint waits for; 0: none, and
	// those that answer at once are taken along.
	Quorum int
	// Wait bounds the time for which a checkpoint waits; 0: two seconds.
	Wait time.Duration
	// Refuse holds back a checkpoint that misses its quorum: entries are then
	// answered with [fault.Unavailable] until the witnesses are back. Otherwise
	// it is published with what it has.
	Refuse bool
	Client *http.Client // nil: one that follows no redirects
	// Changed is called when the quorum is missed, with why of each witness that
	// did not sign, and when it is reached again. It must not block.
	Changed func(WitnessState)
}

// WitnessState is whether checkpoints have their quorum.
type WitnessState struct {
	Reached bool
	Have    []string          // witnesses that signed the newest checkpoint
	Missing map[string]string // the others, and why
	Size    uint64
}

const (
	witnessWait    = 2 * time.Second
	witnessLinger  = 100 * time.Millisecond // for others, once the quorum is there
	witnessRetry   = 10 * time.Second       // of a checkpoint that lacks its quorum
	witnessBackoff = 5 * time.Second        // of one that does not answer, doubled up to a minute
	maxCosigAnswer = 16 << 10
)

// witness is one of them, with what is known of it. Only the sequencer and the
// one request that it waits for touch it.
type witness struct {
	Witness
	size    uint64 // that it cosigned last, as far as is known
	down    time.Time
	backoff time.Duration
}

func newWitnesses(o Witnesses) ([]*witness, error) {
	var out []*witness
	for _, w := range o.All {
		if w.Key == nil || w.URL == "" {
			return nil, fault.Newf(fault.Invalid, "a witness needs a URL and a key")
		}
		for _, have := range out {
			if have.Key.Same(w.Key) {
				return nil, fault.Newf(fault.Invalid, "witness %s has the key of witness %s: a quorum counts distinct ones", w.Key.Name(), have.Key.Name())
			}
		}
		out = append(out, &witness{Witness: w})
	}
	if o.Quorum < 0 || o.Quorum > len(out) {
		return nil, fault.Newf(fault.Invalid, "a quorum of %d of %d witnesses", o.Quorum, len(out))
	}
	return out, nil
}

func (l *Log) witnessKeys() (out []*WitnessKey) {
	for _, w := range l.witnesses {
		out = append(out, w.Key)
	}
	return out
}

// witnessed says whether a signed note has its quorum.
func (l *Log) witnessed(signed []byte) bool {
	return len(l.witnesses) == 0 || len(Cosignatures(signed, l.witnessKeys())) >= l.opts.Witnesses.Quorum
}

// cosigned is what became of one request.
type cosigned struct {
	w   *witness
	sig Cosignature
	err error
}

// cosign adds the witnesses' cosignatures to the note of a head. Without its
// quorum it is an error where the log refuses, and else published as it is.
func (l *Log) cosign(ctx context.Context, h head) ([]byte, error) {
	if len(l.witnesses) == 0 || h.cp.Size == 0 { // nothing to witness in an empty log
		l.lacking = false
		return h.cp.Note, nil
	}
	o := l.opts.Witnesses
	have := Cosignatures(h.cp.Note, l.witnessKeys())
	state := WitnessState{Size: h.cp.Size, Missing: map[string]string{}}
	for _, c := range have {
		state.Have = append(state.Have, c.Witness)
	}
	got := l.ask(ctx, h, o, state)
	signed := bytes.Clone(h.cp.Note)
	for _, r := range got {
		if r.err != nil {
			state.Missing[r.w.Key.Name()] = r.err.Error()
			continue
		}
		signed = append(append(signed, r.sig.line...), '\n')
		state.Have = append(state.Have, r.sig.Witness)
	}
	slices.Sort(state.Have)
	state.Reached = len(state.Have) >= o.Quorum
	l.tellWitnesses(state)
	l.lacking = !state.Reached
	l.metrics.cosignatures.Set(float64(len(state.Have)))
	if !state.Reached && o.Refuse {
		return nil, fault.Newf(fault.Unavailable, "the checkpoint of %d entries has %d of %d cosignatures and is held back until the witnesses answer", h.cp.Size, len(state.Have), o.Quorum)
	}
	return signed, nil
}

// ask asks all witnesses that have not signed, and returns when they answered,
// soon after the quorum was reached, or when the wait is over.
func (l *Log) ask(ctx context.Context, h head, o Witnesses, state WitnessState) (out []cosigned) {
	wait := o.Wait
	if wait <= 0 {
		wait = witnessWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	results := make(chan cosigned, len(l.witnesses))
	now := l.now()
	asked := map[*witness]bool{}
	for _, w := range l.witnesses {
		switch {
		case slices.Contains(state.Have, w.Key.Name()):
		case now.Before(w.down):
			out = append(out, cosigned{w: w, err: fmt.Errorf("it failed before and is asked again at %s", w.down.UTC().Format(time.RFC3339))})
		default:
			asked[w] = true
			go func() {
				sig, err := w.add(ctx, o.Client, h)
				results <- cosigned{w, sig, err}
			}()
		}
	}
	count := len(state.Have)
	var linger <-chan time.Time
	for len(asked) > 0 {
		if count >= o.Quorum && linger == nil {
			linger = time.After(witnessLinger)
		}
		select {
		case r := <-results:
			delete(asked, r.w)
			l.noteWitness(r.w, r.err, now)
			if r.err == nil {
				count++
			}
			out = append(out, r)
		case <-linger:
			// The request ends with the context; the state of the witness is read
			// only after it did.
			cancel()
			linger = nil
			for range len(asked) {
				r := <-results
				delete(asked, r.w)
				if r.err == nil {
					l.noteWitness(r.w, nil, now)
				}
				out = append(out, r)
			}
		}
	}
	return out
}

// noteWitness lets one that failed rest, so that not every commit waits for it.
func (l *Log) noteWitness(w *witness, err error, now time.Time) {
	if err == nil {
		w.backoff, w.down = 0, time.Time{}
		return
	}
	w.backoff = min(max(2*w.backoff, witnessBackoff), time.Minute)
	w.down = now.Add(w.backoff)
}

func (l *Log) tellWitnesses(s WitnessState) {
	if s.Reached == l.reached && l.told {
		return
	}
	l.reached, l.told = s.Reached, true
	if !s.Reached {
		l.logger.Error("a checkpoint lacks its quorum of witnesses", "size", s.Size, "have", s.Have, "missing", s.Missing)
	}
	if l.opts.Witnesses.Changed != nil {
		l.opts.Witnesses.Changed(s)
	}
}

// add is one exchange of C2SP tlog-witness: the checkpoint, and the proof that
// it extends the one which the witness signed last.
func (w *witness) add(ctx context.Context, c *http.Client, h head) (Cosignature, error) {
	for range 3 { // it says which one that is, when we do not know
		if w.size > h.cp.Size {
			return Cosignature{}, fault.Newf(fault.Tampered, "it has seen %d entries of this log, which has %d: the log was rolled back, or another one has its key", w.size, h.cp.Size)
		}
		answer, known, err := w.post(ctx, c, h)
		if err != nil {
			return Cosignature{}, err
		}
		if known != nil {
			if *known == w.size {
				return Cosignature{}, fault.Newf(fault.Unavailable, "it contradicts itself about the size that it knows")
			}
			w.size = *known
			continue
		}
		sigs := cosignatures([]byte(h.cp.text()), string(answer), []*WitnessKey{w.Key})
		if len(sigs) != 1 {
			return Cosignature{}, fault.Newf(fault.Unverified, "its answer is no cosignature of its key %s", w.Key.Name())
		}
		w.size = h.cp.Size
		return sigs[0], nil
	}
	return Cosignature{}, fault.Newf(fault.Unavailable, "it named three sizes in a row")
}

// post sends the request. known is the size that the witness signed last, when
// ours was another.
func (w *witness) post(ctx context.Context, c *http.Client, h head) (answer []byte, known *uint64, err error) {
	var body bytes.Buffer
	fmt.Fprintf(&body, "old %d\n", w.size)
	if w.size > 0 && w.size < h.cp.Size {
		proof, err := h.tree.ConsistencyProof(ctx, w.size, h.cp.Size)
		if err != nil {
			return nil, nil, err
		}
		for _, p := range proof {
			body.WriteString(base64.StdEncoding.EncodeToString(p) + "\n")
		}
	}
	body.WriteString("\n")
	body.Write(h.cp.Note)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(w.URL, "/")+"/add-checkpoint", &body)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Invalid, err)
	}
	if c == nil {
		c = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Unavailable, err)
	}
	defer resp.Body.Close()
	b, err := readAll(resp.Body, maxCosigAnswer, "the answer of witness "+w.Key.Name())
	if err != nil {
		return nil, nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return b, nil, nil
	case http.StatusConflict:
		n, err := strconv.ParseUint(strings.TrimSuffix(string(b), "\n"), 10, 63)
		if err != nil {
			return nil, nil, fault.Newf(fault.Unavailable, "it refuses the size %d and names none of its own", w.size)
		}
		return nil, &n, nil
	case http.StatusNotFound:
		return nil, nil, fault.Newf(fault.Unavailable, "it does not know the log %s: its operator registers the log's key (assay log vkey)", h.cp.Origin)
	case http.StatusForbidden:
		return nil, nil, fault.Newf(fault.Unavailable, "it has another key for the log %s (assay log vkey prints ours)", h.cp.Origin)
	case http.StatusUnprocessableEntity:
		return nil, nil, fault.Newf(fault.Tampered, "it does not accept that this log of %d entries extends the one of %d that it signed", h.cp.Size, w.size)
	}
	return nil, nil, fault.Newf(fault.Unavailable, "it answers %s", resp.Status)
}
