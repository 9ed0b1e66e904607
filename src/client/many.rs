//! Several locks in one decision, and handing one over.

use std::time::Duration;

use hyper::Method;
use percent_encoding::utf8_percent_encode;

use crate::client::{Call, Client, QUERY, encode, trust_by};
use crate::error::ClientError;
use crate::time::{Trust, since_boot};
use crate::wire::{AcquireManyRequest, HandOverRequest, Lease, Leases};

impl Client {
    /// Takes all the locks or none, or waits for all of them as long as the request says. Like
    /// [`Client::acquire`], it gives the request an id if it has none; the belief is in all leases
    /// together.
    pub async fn acquire_many(
        &self,
        mut request: AcquireManyRequest,
    ) -> Result<(Leases, Trust), ClientError> {
        let trust = trust_by(&mut request.request_id);
        let sent_at = since_boot();
        let wait = Duration::from_millis(request.wait_ms.unwrap_or(0));
        let (method, body) = (Method::POST, encode(&request)?);
        let deadline = self.options().deadline + wait;
        let call = Call { method, path: "/v1/locks", body, repeatable: true, deadline };
        let granted: Leases = self.call(call).await?;
        let each = granted.leases.iter().map(|lease| trust(sent_at, lease));
        let all = each.reduce(Trust::or_sooner);
        let all = all.ok_or_else(|| ClientError::Protocol("no lease in it".to_owned()))?;
        Ok((granted, all))
    }

    /// Hands a held lease over to somebody else: the lock is never free in between, the old lease
    /// ends, and the new one has an id and a token of its own.
    pub async fn hand_over(
        &self,
        lease_id: &str,
        mut request: HandOverRequest,
    ) -> Result<(Lease, Trust), ClientError> {
        request.request_id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
        let sent_at = since_boot();
        let path = format!("/v1/leases/{}/hand-over", utf8_percent_encode(lease_id, QUERY));
        let lease: Lease = self.send(Method::POST, &path, encode(&request)?, true).await?;
        let trust = Trust::of_repeat(sent_at, &lease);
        Ok((lease, trust))
    }
}
