//! Every call of the API as the description tells it: where, with what, and how it may be refused.
//! What each body looks like comes from the wire types; what is here is checked against the routes
//! and the kinds of problems.

/// One method on one path.
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) group: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [&'static str],
    pub(super) body: Body,
    /// The schema of a 200, or a content type.
    pub(super) answer: &'static str,
    /// Its own problems; those that any call of its sort may have are added.
    pub(super) problems: &'static [&'static str],
    pub(super) sort: Sort,
}

/// What a call carries.
#[derive(PartialEq, Eq)]
pub(super) enum Body {
    None,
    /// Nothing, or `{}`.
    Empty,
    Schema(&'static str),
    /// The same, and the request id may come as a header.
    Once(&'static str),
}

/// Where a call is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// By this node alone.
    Here,
    /// By the leader, unless a stale answer will do.
    Read,
    /// By the leader, through the log.
    Write,
}

const TEXT: &str = "text/plain";
const EVENTS: &str = "text/event-stream";
const FULL: &[&str] = &[
    "lock-held",
    "wait-timeout",
    "permit-limit-differs",
    "lease-gone",
    "session-gone",
    "session-unknown",
    "request-id-reused",
    "queue-full",
    "holders-full",
    "leases-full",
    "session-leases-full",
    "answers-full",
    "tokens-exhausted",
    "deadlock",
];

/// The same for a request that names its locks in the body.
const FULL_NAMES: &[&str] = &[
    "bad-name",
    "lock-held",
    "wait-timeout",
    "permit-limit-differs",
    "lease-gone",
    "session-gone",
    "session-unknown",
    "request-id-reused",
    "queue-full",
    "holders-full",
    "leases-full",
    "session-leases-full",
    "answers-full",
    "tokens-exhausted",
    "deadlock",
];

#[rustfmt::skip]
pub(super) const CALLS: &[Call] = &[
    Call { method: "post", path: "/v1/locks/{name}", id: "acquire", group: "locks", summary: "Take a lock, or wait for it", query: &[], body: Body::Once("AcquireRequest"), answer: "Lease", problems: FULL, sort: Sort::Write },
    Call { method: "get", path: "/v1/locks/{name}", id: "inspect", group: "locks", summary: "Who holds a lock, and who waits", query: &["consistency"], body: Body::None, answer: "Lock", problems: &[], sort: Sort::Read },
    Call { method: "delete", path: "/v1/locks/{name}", id: "force-release", group: "locks", summary: "Take a lock from its holder", query: &["token", "all", "reason", "lock_delay_ms"], body: Body::Empty, answer: "ForceReleased", problems: &[], sort: Sort::Write },
    Call { method: "get", path: "/v1/locks", id: "list", group: "locks", summary: "List locks", query: &["prefix", "limit", "cursor", "consistency"], body: Body::None, answer: "Locks", problems: &[], sort: Sort::Read },
    Call { method: "post", path: "/v1/locks", id: "acquire-many", group: "locks", summary: "Take several locks in one decision, or wait for all of them", query: &[], body: Body::Once("AcquireManyRequest"), answer: "Leases", problems: FULL_NAMES, sort: Sort::Write },
    Call { method: "post", path: "/v1/leases/{id}/hand-over", id: "hand-over", group: "leases", summary: "Give a lock to somebody else, without a gap and with a new token", query: &[], body: Body::Once("HandOverRequest"), answer: "Lease", problems: &["lease-gone", "lease-unknown", "lease-waiting", "grant-shared", "session-gone", "session-unknown", "request-id-reused", "session-leases-full", "answers-full", "deadlock", "tokens-exhausted"], sort: Sort::Write },
    Call { method: "get", path: "/v1/watch", id: "watch", group: "watch", summary: "What happens to locks, as it happens", query: &["prefix", "from_revision"], body: Body::None, answer: EVENTS, problems: &["bad-request", "revision-gone", "overloaded", "shutting-down"], sort: Sort::Here },
    Call { method: "get", path: "/v1/hold/{name}", id: "hold", group: "watch", summary: "Hold a lock for as long as the connection lives", query: &["owner", "grace_ms", "wait_ms", "mode", "permits", "limit", "request_id"], body: Body::None, answer: EVENTS, problems: &["bad-name", "bad-request", "overloaded", "shutting-down"], sort: Sort::Here },
    Call { method: "post", path: "/v1/leases/{id}/renew", id: "renew", group: "leases", summary: "Keep a lease", query: &[], body: Body::Empty, answer: "Lease", problems: &["lease-gone", "lease-unknown", "lease-waiting"], sort: Sort::Write },
    Call { method: "delete", path: "/v1/leases/{id}", id: "release", group: "leases", summary: "Release a lease, or leave the queue", query: &[], body: Body::Empty, answer: "Released", problems: &["lease-gone", "lease-unknown"], sort: Sort::Write },
    Call { method: "get", path: "/v1/leases/{id}", id: "look", group: "leases", summary: "Look at a lease", query: &["consistency"], body: Body::None, answer: "AgedLeaseState", problems: &["lease-gone", "lease-unknown"], sort: Sort::Read },
    Call { method: "post", path: "/v1/sessions", id: "open-session", group: "sessions", summary: "Open a session", query: &[], body: Body::Once("SessionRequest"), answer: "Session", problems: &["session-gone", "request-id-reused", "sessions-full", "answers-full"], sort: Sort::Write },
    Call { method: "post", path: "/v1/sessions/{id}/renew", id: "renew-session", group: "sessions", summary: "Keep a session and all its leases", query: &[], body: Body::Empty, answer: "Session", problems: &["session-gone", "session-unknown"], sort: Sort::Write },
    Call { method: "delete", path: "/v1/sessions/{id}", id: "close-session", group: "sessions", summary: "Close a session and end its leases", query: &[], body: Body::Empty, answer: "SessionClosed", problems: &["session-gone", "session-unknown"], sort: Sort::Write },
    Call { method: "get", path: "/v1/sessions/{id}", id: "look-at-session", group: "sessions", summary: "Look at a session", query: &["consistency"], body: Body::None, answer: "AgedSession", problems: &["session-gone", "session-unknown"], sort: Sort::Read },
    Call { method: "get", path: "/v1/values/{name}", id: "value", group: "values", summary: "Read the value of a lock", query: &["consistency"], body: Body::None, answer: "AgedValue", problems: &["no-value"], sort: Sort::Read },
    Call { method: "put", path: "/v1/values/{name}", id: "set-value", group: "values", summary: "Write the value of a lock that one holds, or delete it with null", query: &[], body: Body::Schema("ValueRequest"), answer: "Value|ValueDeleted", problems: &["lease-gone", "lease-unknown", "lease-waiting", "lease-of-another-lock", "values-full"], sort: Sort::Write },
    Call { method: "delete", path: "/v1/values/{name}", id: "delete-value", group: "values", summary: "Delete the value of a lock that nobody holds", query: &[], body: Body::Empty, answer: "ValueDeleted", problems: &["lock-held"], sort: Sort::Write },
    Call { method: "get", path: "/v1/history/{name}", id: "history", group: "history", summary: "Who held a lock, the newest first", query: &["limit", "before", "consistency"], body: Body::None, answer: "AgedHistory", problems: &[], sort: Sort::Read },
    Call { method: "get", path: "/v1/history", id: "grant", group: "history", summary: "Which grant had a token", query: &["token", "consistency"], body: Body::None, answer: "AgedPastGrant", problems: &["token-unknown"], sort: Sort::Read },
    Call { method: "post", path: "/v1/fence", id: "fence", group: "fence", summary: "Ask whether a token is held now", query: &[], body: Body::Schema("FenceRequest"), answer: "Fence", problems: &["bad-name", "token-stale"], sort: Sort::Read },
    Call { method: "get", path: "/v1/cluster", id: "cluster", group: "cluster", summary: "Members and leader, as this node sees them", query: &[], body: Body::None, answer: "Cluster", problems: &["bad-request"], sort: Sort::Here },
    Call { method: "post", path: "/v1/cluster/leader", id: "transfer-leader", group: "cluster", summary: "Hand leadership to another member", query: &[], body: Body::Schema("LeaderRequest"), answer: "Leader", problems: &["member-unknown", "not-transferred"], sort: Sort::Write },
    Call { method: "get", path: "/v1/members", id: "members", group: "members", summary: "The members, as this node sees them", query: &[], body: Body::None, answer: "Members", problems: &["bad-request"], sort: Sort::Here },
    Call { method: "post", path: "/v1/members", id: "invite", group: "members", summary: "Invite one machine to join", query: &[], body: Body::Schema("InvitationRequest"), answer: "Invitation", problems: &["member-id-used"], sort: Sort::Write },
    Call { method: "delete", path: "/v1/members/{id}", id: "remove-member", group: "members", summary: "Remove a member for good", query: &["force"], body: Body::Empty, answer: "MembersChanged", problems: &["member-unknown", "members-busy", "quorum-at-risk"], sort: Sort::Write },
    Call { method: "post", path: "/v1/members/{id}/promote", id: "promote-member", group: "members", summary: "Make a member that has caught up a voter", query: &[], body: Body::Empty, answer: "MembersChanged", problems: &["member-unknown", "member-behind", "members-busy"], sort: Sort::Write },
    Call { method: "post", path: "/v1/members/{id}/replace", id: "replace-member", group: "members", summary: "Make one member a voter and remove the other, in one change", query: &[], body: Body::Schema("ReplaceRequest"), answer: "MembersChanged", problems: &["member-unknown", "member-behind", "members-busy", "quorum-at-risk"], sort: Sort::Write },
    Call { method: "get", path: "/v1/tokens", id: "access-tokens", group: "tokens", summary: "The access tokens and their rights, as this node knows them, without secrets", query: &[], body: Body::None, answer: "AccessTokens", problems: &["bad-request"], sort: Sort::Here },
    Call { method: "post", path: "/v1/tokens", id: "create-access-token", group: "tokens", summary: "Make an access token", query: &[], body: Body::Schema("AccessTokenRequest"), answer: "AccessToken", problems: &["access-tokens-full", "token-exists"], sort: Sort::Write },
    Call { method: "post", path: "/v1/tokens/init", id: "first-access-token", group: "tokens", summary: "Make the first access token, on the machine of a node", query: &[], body: Body::Schema("FirstTokenRequest"), answer: "AccessToken", problems: &["access-tokens-full"], sort: Sort::Write },
    Call { method: "delete", path: "/v1/tokens/{id}", id: "revoke-access-token", group: "tokens", summary: "Revoke an access token", query: &[], body: Body::Empty, answer: "AccessTokenRevoked", problems: &["access-token-unknown", "last-admin"], sort: Sort::Write },
    Call { method: "post", path: "/v1/backup", id: "backup", group: "cluster", summary: "A consistent copy of the whole state, as a file", query: &[], body: Body::Empty, answer: "application/octet-stream", problems: &["overloaded"], sort: Sort::Read },
    Call { method: "get", path: "/livez", id: "alive", group: "cluster", summary: "Whether the process runs", query: &[], body: Body::None, answer: TEXT, problems: &[], sort: Sort::Here },
    Call { method: "get", path: "/readyz", id: "ready", group: "cluster", summary: "Whether the node serves", query: &[], body: Body::None, answer: TEXT, problems: &["not-ready"], sort: Sort::Here },
    Call { method: "get", path: "/metrics", id: "metrics", group: "cluster", summary: "Metrics for Prometheus", query: &[], body: Body::None, answer: "application/openmetrics-text", problems: &[], sort: Sort::Here },
    Call { method: "get", path: "/openapi.json", id: "description", group: "cluster", summary: "This description", query: &[], body: Body::None, answer: "application/json", problems: &[], sort: Sort::Here },
    Call { method: "get", path: "/", id: "index", group: "cluster", summary: "The calls in one screen", query: &[], body: Body::None, answer: TEXT, problems: &[], sort: Sort::Here },
];
