package server

import (
	"context"
	"crypto"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"sync"
	"sync/atomic"

	"assay/action"
	"assay/admission"
	"assay/admission/external"
	"assay/alert"
	"assay/api"
	"assay/authority"
	"assay/authority/rotation"
	"assay/blob"
	"assay/blob/sweep"
	"assay/builder/buildlog"
	"assay/builder/runner/baseline"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/evidence/contract"
	doors "assay/gate"
	"assay/identity"
	"assay/identity/credential"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/inventory"
	"assay/inventory/supply"
	"assay/inventory/threat"
	"assay/policy"
	"assay/policy/bundle"
	"assay/policy/exception"
	"assay/readiness"
	"assay/registry"
	"assay/registry/collect"
	"assay/registry/gate"
	"assay/registry/gateway"
	"assay/registry/integrity"
	"assay/registry/retention"
	"assay/registry/ticket"
	"assay/sbom"
	"assay/siem"
	"assay/slo"
	"assay/source/forge"
	"assay/store"
	"assay/tlog"
	"assay/tlog/ct"
	"assay/tlog/rekor"
	"assay/transfer"
	"assay/trust"
	"assay/trust/tuf"
	"assay/ui"
	"assay/verify"
	"assay/vuln/canary"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/feed/upstream"
	"assay/vuln/finding"
	"assay/vuln/malware"
	"assay/vuln/risk"
	"assay/vuln/tier"
	"assay/vuln/vex"
	"assay/webhook"

	"github.com/prometheus/client_golang/prometheus"
)

// parts are the domains, open.
type parts struct {
	keys            *keyring.Folder
	material        *authority.Material
	verifier        *identity.Verifier
	access          *identity.Access
	credentials     *credential.Store
	granting        sync.Mutex // held while grants are exchanged
	tlog            *tlog.Log
	ct              *ct.CT
	rekor           *rekor.Server
	ca              *authority.CA
	tsa             *authority.TSA
	tuf             *tuf.Repository
	live            live
	ui              *ui.UI
	vulnerabilities api.Vulnerabilities
	services        []inventory.Spec // of the configuration
	inventory       *inventory.Store
	risk            *risk.Scorer
	exceptions      *exception.Store
	actions         *action.Store
	tiers           *tier.Book
	tickets         *ticket.Book
	assigned        atomic.Pointer[inventory.Catalogue] // that what runs was brought to
	stirredBy       atomic.Pointer[policy.Set]          // that all decisions were compared with
	evidence        *evidence.Store
	sboms           *sbom.Store
	runners         *baseline.Store
	ledger          *contract.Ledger
	webhooks        *webhook.Sender
	buildLogs       *buildlog.Store
	siem            *siem.Streams
	forges          *forge.Recorder
	engine          *verify.Engine
	gate            *gate.Gate
	registry        *registry.Registry
	gateway         *gateway.Gateway
	admission       admissionDoor
	doors           *doors.Gate
	watch           watch
	integrity       *integrity.Checker
	collector       *collect.Collector
	legal           *retention.Holds
	retention       *retention.Keeper
	blobs           blob.Store
	events          *event.Log
	journal         *event.Journal // nil: the database takes all
	backlog         prometheus.Gauge
	badBundles      prometheus.Gauge
	own             ownKeys
	desired         atomic.Pointer[config.Desired]
	loading         sync.Mutex        // held while documents are put in force
	documents       [sha256.Size]byte // fingerprint of those in force
	ready           atomic.Bool
	operators       string
	rolesState
}

// migrations are all tables of this binary, in the order of the floors.
func migrations() []store.Migrations {
	return []store.Migrations{
		event.Migrations, sweep.Migrations, credential.Migrations, tlog.Migrations, trust.Migrations, evidence.Migrations, sbom.Migrations, feed.Migrations, exploit.Migrations, upstream.Migrations, finding.Migrations, canary.Migrations, vex.Migrations, malware.Migrations, baseline.Migrations,
		registry.Migrations, gate.Migrations, integrity.Migrations, collect.Migrations, retention.Migrations, gateway.Migrations, verify.Migrations, webhook.Migrations, config.Migrations, forge.Migrations, vouchMigrations, transfer.Migrations,
		contract.Migrations, inventory.Migrations, admission.Migrations, admission.AheadMigrations, external.Migrations, supply.Migrations, ticket.Migrations, ui.Migrations, buildlog.Migrations, tier.Migrations, exception.Migrations, action.Migrations, readiness.Migrations,
		slo.Migrations, alert.Migrations, bundle.Migrations, threat.Migrations, doors.Migrations,
	}
}

// The names of the server's own keys, beside authority's.
const (
	keyLog       = "log"
	keyCT        = "ct"
	keyAudit     = "audit"
	keyDecision  = "decision"
	keyRegistry  = "registry"
	keyTUFRoot   = "tuf-root"
	keyTUFOnline = "tuf-online"
)

func (s *Server) open(ctx context.Context) error {
	steps := []struct {
		name string
		do   func(context.Context, *keyring.Folder) error
		here bool // in a process of a split site: by its roles
	}{
		{"database", s.openStore, true},
		{"keys", s.openRotation, true},
		{"authorities", s.openAuthorities, true},
		{"logs", s.openLogs, true},
		{"trust", s.openTrust, true},
		{"registry", s.openRegistry, s.decides()},
		{"interface", s.openAPI, true},
	}
	keys, err := s.openKeys(ctx)
	if err != nil {
		return err
	}
	s.keys = keys
	for _, step := range steps {
		if !step.here {
			continue
		}
		if err := step.do(ctx, keys); err != nil {
			return fmt.Errorf("open %s: %w", step.name, err)
		}
	}
	return nil
}

func (s *Server) openStore(ctx context.Context, _ *keyring.Folder) error {
	dsn, err := DSN(s.cfg)
	if err != nil {
		return err
	}
	s.db, err = store.Open(ctx, dsn, store.WithClock(s.clock), store.WithLogger(s.log), store.WithRegisterer(s.reg))
	if err != nil {
		return err
	}
	s.onClose("database", s.db.Close)
	if s.services, err = s.cfg.ReadServices(); err != nil {
		return err
	}
	s.events = event.NewLog(s.db, event.LogOptions{Logger: s.log, Registerer: s.reg})
	s.backlog = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "assay_event_heads_backlog_seconds",
		Help: "How long the oldest due head of the event log has waited for the transparency log; over 60 is a reason for an alert.",
	})
	s.reg.MustRegister(s.backlog)
	if s.badBundles, err = newBadBundles(s.reg); err != nil {
		return err
	}
	if err := s.db.Migrate(ctx, migrations()...); err != nil {
		return err
	}
	return s.openJournal(ctx)
}

// openJournal opens the journal of this folder where the database lives in it.
// Where it does not (a site that was restored into PostgreSQL), what the journal
// holds is brought there all the same.
func (s *Server) openJournal(ctx context.Context) (err error) {
	if s.cfg.Store.DSN != "" {
		return event.ReplayJournal(ctx, s.db, s.data.path)
	}
	if s.journal, err = event.OpenJournal(ctx, s.db, s.data.path, s.log); err != nil {
		return err
	}
	s.onClose("journal", func() error { return s.journal.Close(context.WithoutCancel(ctx)) })
	return nil
}

func (s *Server) openAuthorities(ctx context.Context, keys *keyring.Folder) error {
	var err error
	if s.has(config.RoleSigner) {
		err = s.openIssuer(ctx, keys)
	} else {
		err = s.takeSigner(ctx)
	}
	if err != nil {
		return err
	}
	if s.access, err = identity.NewAccess(nil); err != nil {
		return err
	}
	if s.credentials, err = credential.Open(ctx, credential.Options{
		DB: s.db, Clock: s.clock, Logger: s.log, MaxLife: s.cfg.Identity.RobotMaxLife, Local: s.local.URL, Changed: s.regrant, Settle: s.flushRecords,
	}); err != nil {
		return err
	}
	if s.verifier, err = identity.NewVerifier(identity.VerifierOptions{
		Issuers: s.cfg.Identity.Issuers, Local: s.local, Check: s.credentials.Check, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	}); err != nil || !s.has(config.RoleSigner) {
		return err
	}
	s.tsa, err = authority.NewTSA(authority.TSAOptions{
		Chain: s.material.TSAChain, Signer: s.material.TSASigner, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	})
	return err
}

// openIssuer opens what this process signs with.
func (s *Server) openIssuer(ctx context.Context, keys *keyring.Folder) error {
	err := s.openMaterial(ctx, keys)
	if err != nil {
		return err
	}
	if s.issuer, err = authority.NewIssuer(authority.IssuerOptions{
		URL: s.public + "/oidc", Signer: s.material.OIDC, DB: s.db, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	}); err != nil {
		return err
	}
	s.local = s.issuer.Local()
	return nil
}

func (s *Server) openLogs(ctx context.Context, keys *keyring.Folder) error {
	var err error
	switch {
	case s.has(config.RoleLog):
		err = s.openOwnLogs(ctx, keys)
	case s.decides():
		err = s.takeLog(ctx)
	}
	if err != nil || !s.has(config.RoleSigner) {
		return err
	}
	var promises authority.PrecertLog = s.ct
	if s.ct == nil {
		promises = remoteCT{base: s.cfg.Server.Peers.Log, http: s.peerClient()}
	}
	s.ca, err = authority.NewCA(authority.CAOptions{
		Chain: s.material.CAChain, Signer: s.material.CASigner, SCT: promises, Verifier: s.verifier, DB: s.db,
		Clock: s.clock, Logger: s.log, Registerer: s.reg,
	})
	return err
}

// openOwnLogs opens the logs in this process's folder.
func (s *Server) openOwnLogs(ctx context.Context, keys *keyring.Folder) error {
	if err := s.leadLog(ctx); err != nil {
		return err
	}
	witnesses, err := s.openWitnesses(ctx, keys)
	if err != nil {
		return err
	}
	log, err := s.openLogKeys(ctx, keys, rotation.Log)
	if err != nil {
		return err
	}
	// Rekor's clients take the host name alone as the origin.
	if s.tlog, err = tlog.Open(ctx, tlog.Options{
		Dir: s.data.join("log"), Origin: s.data.site.Host, Signer: log.Signer, Cosigners: log.Cosigners, Past: log.Past, Witnesses: witnesses, DB: s.db, Deduplicate: true,
		Held: s.data.held, NeedRecord: true, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	}); err != nil {
		return err
	}
	s.onClose("log", s.tlog.Close)
	promises, err := s.openLogKeys(ctx, keys, rotation.CT)
	if err != nil {
		return err
	}
	if s.ct, err = ct.Open(ctx, ct.Options{
		Options: tlog.Options{Dir: s.data.join("ct"), Origin: s.data.site.Host + "/ct", Signer: promises.Signer, Cosigners: promises.Cosigners, Past: promises.Past, DB: s.db, Held: s.data.held, NeedRecord: true, Clock: s.clock, Logger: s.log, Registerer: s.reg, Name: "ct"},
		Issuers: s.material.CAChain,
	}); err != nil {
		return err
	}
	s.onClose("certificate log", s.ct.Close)
	if s.rekor, err = rekor.New(s.tlog, rekor.Options{ReadEntries: s.readLog, Logger: s.log, Registerer: s.reg}); err != nil {
		return err
	}
	audit, err := s.ownKey(ctx, keys, rotation.Audit)
	if err != nil {
		return err
	}
	s.own.audit.Store(&auditKey{audit})
	return nil
}

// openTrust builds the site's trusted root and publishes it by TUF.
func (s *Server) openTrust(ctx context.Context, keys *keyring.Folder) error {
	u, err := url.Parse(s.public)
	if err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	s.operators = u.Hostname()
	if !s.has(config.RoleAPI) {
		return s.reloadTrust(ctx) // of which another process publishes the TUF repository
	}
	if _, err := s.ownKey(ctx, keys, rotation.Delegation); err != nil {
		return err
	}
	roles, before, err := s.tufRoles(ctx, keys)
	if err != nil {
		return err
	}
	if s.tuf, err = tuf.NewRepository(ctx, tuf.Options{Dir: s.data.join("tuf"), Roles: roles, Before: before, Clock: s.clock, Logger: s.log}); err != nil {
		return err
	}
	if err := s.reloadTrust(ctx); err != nil {
		return err
	}
	return s.ensureRevocations(ctx)
}

func (s *Server) openRegistry(ctx context.Context, keys *keyring.Folder) error {
	var err error
	var closeBlobs func() error
	if s.blobs, closeBlobs, err = openBlobs(ctx, s.cfg.Blob, s.data.join("blobs"), s.clock, s.log); err != nil {
		return err
	}
	s.onClose("blobs", closeBlobs)
	decisionKey, err := s.ownKey(ctx, keys, rotation.Decision)
	if err != nil {
		return err
	}
	if s.evidence, err = evidence.New(evidence.Options{
		DB: s.db, Blobs: s.blobs, Verifier: liveVerifier{s}, Epoch: s.loadedEpoch, Own: s.ownIssuer, OwnLog: s.ownLog, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	}); err != nil {
		return err
	}
	s.sboms = sbom.NewStore(s.db, sbom.Limits{})
	s.openInventory()
	if err := s.openVulnerabilities(); err != nil {
		return err
	}
	s.openExceptions()
	if err := s.openActions(); err != nil {
		return err
	}
	s.openRisk()
	if err := s.openTiers(); err != nil {
		return err
	}
	s.onClose("evidence", s.evidence.Close)
	if err := s.openRunners(); err != nil {
		return err
	}
	if s.ledger, err = s.newLedger(); err != nil {
		return err
	}
	if s.engine, err = s.newEngine(decisionKey); err != nil {
		return err
	}
	registryKey, err := s.ownKey(ctx, keys, rotation.Registry)
	if err != nil {
		return err
	}
	tokenKey, err := derive(registryKey, useTokenKey)
	if err != nil {
		return err
	}
	if err := s.openGate(); err != nil {
		return err
	}
	if err := s.openTickets(); err != nil {
		return err
	}
	if s.gateway, err = gateway.New(gateway.Options{DB: s.db, Clock: s.clock, Logger: s.log, Registerer: s.reg}); err != nil {
		return err
	}
	if err := s.openIntegrity(); err != nil {
		return err
	}
	s.openHolds()
	if err := s.openBuildLogs(); err != nil {
		return err
	}
	s.registry, err = registry.New(registry.Options{
		Gate: s.gate, Visibility: s.gate, Keeper: s.legal,
		DB: s.db, Blobs: s.integrity.Store(), Access: s.access, Auth: registry.VerifierAuth{Verifier: s.verifier, Credentials: s.credentials},
		Journal:     s.journal,
		Credentials: s.credentials, StrictAudit: !s.cfg.Registry.RelaxedAudit, Redirect: s.cfg.Registry.Redirect,
		PublicURL: s.public, TokenKey: tokenKey, Evidence: s.gate.Ingester(s.evidence), Upstream: s.gateway,
		Clock: s.clock, Logger: s.log, Registerer: s.reg,
		Limits: registry.Limits{MaxManifest: s.cfg.Registry.MaxManifest, Uploads: s.cfg.Registry.MaxUploads, ExchangeTTL: s.cfg.Registry.ExchangeLife},
	})
	if err != nil {
		return err
	}
	if err := s.openAdmission(ctx, keys); err != nil {
		return err
	}
	return s.openCollector()
}

// derive makes a symmetric key out of a private one (RFC 5869).
func derive(key crypto.Signer, use string) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, der, nil, use, 32)
}

func (s *Server) openAPI(ctx context.Context, _ *keyring.Folder) error {
	s.webhooks = webhook.New(webhook.Options{
		DB: s.db, Events: s.events, Hooks: func() []*webhook.Hook { return s.desired.Load().Webhooks }, Secret: config.Secret,
		Source: s.public, Host: s.host(), Logger: s.log, Registerer: s.reg,
	})
	if err := s.openSIEM(); err != nil {
		return err
	}
	if err := s.openForges(); err != nil {
		return err
	}
	s.openWatch()
	if err := s.openDoors(); err != nil {
		return err
	}
	s.api = api.New(api.Options{
		Doors:      s.doors,
		Indicators: s.watch.slo, Alerts: s.watch.alerts,
		Ledger: s.ledger, Supply: supply.NewStore(s.db),
		DB: s.db, Access: s.access, Verifier: s.verifier, Evidence: s.evidence, SBOMs: s.sboms, Vulnerabilities: s.vulnerabilities, Inventory: s.inventory, SiteServices: s.services, Admission: &admissionSite{s: s}, Integrity: s.integrity, Collector: s.collector, Holds: s.legal, Retention: s.retention, Runners: s.runners, Webhooks: s.webhooks, Forges: s.forges, Engine: s.engine, Gate: s.gate, Log: s.logSnapshot, Events: s.events,
		Threats: s.openThreats(), Exceptions: s.exceptions, Actions: s.actions, Risk: s.risk, Tickets: s.tickets, BuildLogs: s.buildLogs, Links: s.cfg.Telemetry.Links,
		Root: func() *trust.Root { return s.trust().root }, TUFRoot: s.firstRoot, Resolve: s.resolve, Lies: lies,
		Credentials: s.credentials, Desired: s.desired.Load, Placed: s.placed, Check: s.checkDesired, Reload: s.reload, Site: s.cfg.Identity.Issuers,
		Host: s.host, Status: s.status, Keys: s.listKeys, Foreign: foreignTrust{s}, Delegations: delegations{s}, Rotate: s.rotate, Clock: s.clock, Logger: s.log,
		Revocations: revocations{s}, Bundles: carrying{s}, PolicyBundles: policyBundles{s},
	})
	var err error
	if s.ui, err = s.openUI(); err != nil {
		return err
	}
	// The rows of all keys are there now, and all parts that use them.
	if err := s.reloadTrust(ctx); err != nil {
		return err
	}
	return s.reload(ctx)
}

// firstRoot is the root that a TUF client begins with: it finds the later ones
// itself, each signed by the one before.
func (s *Server) firstRoot() ([]byte, error) { return os.ReadFile(s.data.join("tuf", "1.root.json")) }
