//! Short words for what a command is and what became of it, the same in metrics, audit and traces. Fixed
//! texts, so that nothing of a request can get into them.

use oarlock_core::command::Command;
use oarlock_core::outcome::{EndReason, Outcome, Rejection};

/// What is asked for.
pub fn command(command: &Command) -> &'static str {
    match command {
        Command::Advance => "advance",
        Command::Acquire(_) => "acquire",
        Command::Attach { .. } => "attach",
        Command::Detach { .. } => "detach",
        Command::DetachAll => "detach-all",
        Command::Renew { .. } => "renew",
        Command::Release { .. } => "release",
        Command::ForceRelease { .. } => "force-release",
        Command::OpenSession(_) => "open-session",
        Command::RenewSession { .. } => "renew-session",
        Command::CloseSession { .. } => "close-session",
        Command::SetValue { .. } => "set-value",
        Command::DeleteValue { .. } => "delete-value",
        Command::AcquireMany(_) => "acquire-many",
        Command::HandOver(_) => "hand-over",
        Command::PutRecord { .. } => "put-record",
    }
}

/// What became of it; of a refusal, why.
pub fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Granted(_) | Outcome::GrantedMany(_) => "granted",
        Outcome::Queued(_) | Outcome::QueuedMany(_) => "queued",
        Outcome::Renewed(_) => "renewed",
        Outcome::Released(_) => "released",
        Outcome::ForceReleased(_) => "force-released",
        Outcome::SessionOpened(_) => "session-opened",
        Outcome::SessionRenewed(_) => "session-renewed",
        Outcome::SessionClosed { .. } => "session-closed",
        Outcome::ValueSet(_) => "value-set",
        Outcome::ValueDeleted { .. } => "value-deleted",
        Outcome::RecordPut(_) => "record-put",
        Outcome::Rejected(rejection) => reason(rejection),
    }
}

/// Why nothing changed.
pub fn reason(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::LockHeld(_) => "lock-held",
        Rejection::QueueFull { .. } => "queue-full",
        Rejection::HoldersFull { .. } => "holders-full",
        Rejection::LeasesFull { .. } => "leases-full",
        Rejection::SessionsFull { .. } => "sessions-full",
        Rejection::SessionLeasesFull { .. } => "session-leases-full",
        Rejection::AnswersFull { .. } => "answers-full",
        Rejection::RequestIdReused => "request-id-reused",
        Rejection::LeaseGone(ended) if ended.how == EndReason::WaitTimeout => "wait-timeout",
        Rejection::LeaseGone(_) => "lease-gone",
        Rejection::LeaseUnknown => "lease-unknown",
        Rejection::LeaseWaiting => "lease-waiting",
        Rejection::SessionGone { .. } => "session-gone",
        Rejection::SessionUnknown => "session-unknown",
        Rejection::TokensExhausted => "tokens-exhausted",
        Rejection::PermitLimitDiffers { .. } => "permit-limit-differs",
        Rejection::LeaseOfOtherLock => "lease-of-another-lock",
        Rejection::ClaimsInvalid => "claims-invalid",
        Rejection::GrantShared => "grant-shared",
        Rejection::Deadlock(_) => "deadlock",
        Rejection::ValuesFull { .. } => "values-full",
        Rejection::RecordChanged { .. } => "record-changed",
        Rejection::RecordsFull { .. } => "records-full",
    }
}
