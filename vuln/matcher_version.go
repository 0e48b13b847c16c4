package vuln

// MatcherVersion is raised when what an advisory says about a component may come
// out otherwise than before: then all canaries are judged again. New builds have
// them judged as well.
const MatcherVersion = "2"
