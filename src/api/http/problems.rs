//! Every kind of problem that the API answers, with its status. An answer of a kind that is not
//! here fails the tests, so that the published description stays complete.

/// `type` and status of each problem.
pub(super) const PROBLEMS: &[(&str, u16)] = &[
    ("access-token-unknown", 404),
    ("access-tokens-full", 429),
    ("answers-full", 429),
    ("bad-name", 400),
    ("bad-request", 400),
    ("body-timeout", 408),
    ("body-too-large", 413),
    ("deadlock", 409),
    ("forbidden", 403),
    ("grant-shared", 409),
    ("holders-full", 429),
    ("lease-gone", 410),
    ("lease-of-another-lock", 409),
    ("lease-unknown", 404),
    ("lease-waiting", 409),
    ("last-admin", 409),
    ("leases-full", 429),
    ("lock-held", 409),
    ("member-behind", 409),
    ("member-id-used", 409),
    ("member-unknown", 404),
    ("members-busy", 409),
    ("method-not-allowed", 405),
    ("no-leader", 503),
    ("no-value", 404),
    ("not-found", 404),
    ("not-ready", 503),
    ("not-transferred", 409),
    ("overloaded", 503),
    ("permit-limit-differs", 409),
    ("queue-full", 429),
    ("quorum-at-risk", 409),
    ("quota-exceeded", 429),
    ("request-id-reused", 422),
    ("revision-gone", 410),
    ("session-gone", 410),
    ("session-leases-full", 429),
    ("session-unknown", 404),
    ("sessions-full", 429),
    ("shutting-down", 503),
    ("token-exists", 409),
    ("token-stale", 409),
    ("token-unknown", 404),
    ("tokens-exhausted", 503),
    ("unauthenticated", 401),
    ("unknown-outcome", 504),
    ("values-full", 429),
    ("wait-timeout", 409),
];

/// Whether a problem is one of those published.
pub(super) fn published(kind: &str, status: u16) -> bool {
    PROBLEMS.contains(&(kind, status))
}
