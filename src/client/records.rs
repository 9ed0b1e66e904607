//! The calls about what a lock carries and what is remembered: values, history, sessions.

use bytes::Bytes;
use hyper::Method;
use percent_encoding::utf8_percent_encode;

use crate::client::{Client, PATH, QUERY, encode};
use crate::error::ClientError;
use crate::wire::{
    Fence, FenceRequest, History, PastGrant, Session, Value, ValueDeleted, ValueRequest,
};

impl Client {
    /// The value of a lock.
    pub async fn value(&self, name: &str) -> Result<Value, ClientError> {
        self.simple(Method::GET, &value_path(name), true).await
    }

    /// Writes the value of a lock, under the lease that holds it.
    pub async fn set_value(
        &self,
        name: &str,
        lease_id: &str,
        value: &str,
    ) -> Result<Value, ClientError> {
        let body = value_body(lease_id, Some(value))?;
        self.send(Method::PUT, &value_path(name), body, true).await
    }

    /// Deletes the value of a lock, under the lease that holds it.
    pub async fn delete_value(
        &self,
        name: &str,
        lease_id: &str,
    ) -> Result<ValueDeleted, ClientError> {
        let body = value_body(lease_id, None)?;
        self.send(Method::PUT, &value_path(name), body, true).await
    }

    /// Who held a lock, the newest first; `before` is the `next` of the page before.
    pub async fn history(
        &self,
        name: &str,
        before: Option<u64>,
        limit: u32,
    ) -> Result<History, ClientError> {
        let before = before.map_or_else(String::new, |token| format!("&before={token}"));
        let name = utf8_percent_encode(name, PATH);
        let path = format!("/v1/history/{name}?limit={limit}{before}");
        self.simple(Method::GET, &path, true).await
    }

    /// The newest of those who held a lock, as the node itself knows them.
    pub async fn history_stale(&self, name: &str, limit: u32) -> Result<History, ClientError> {
        let name = utf8_percent_encode(name, PATH);
        let path = format!("/v1/history/{name}?limit={limit}&consistency=stale");
        self.simple(Method::GET, &path, true).await
    }

    /// The grant with a token, held or ended.
    pub async fn grant_of_token(&self, token: u64) -> Result<PastGrant, ClientError> {
        self.simple(Method::GET, &format!("/v1/history?token={token}"), true).await
    }

    /// Asks whether a token is held at this instant; if not, the call is refused with `token-stale`.
    pub async fn fence(&self, name: &str, token: u64) -> Result<Fence, ClientError> {
        let body = encode(&FenceRequest { name: name.to_owned(), token })?;
        self.send(Method::POST, "/v1/fence", body, true).await
    }

    /// Shows a session to who knows its id.
    pub async fn session(&self, session_id: &str) -> Result<Session, ClientError> {
        let path = format!("/v1/sessions/{}", utf8_percent_encode(session_id, QUERY));
        self.simple(Method::GET, &path, true).await
    }
}

fn value_path(name: &str) -> String {
    format!("/v1/values/{}", utf8_percent_encode(name, PATH))
}

fn value_body(lease_id: &str, value: Option<&str>) -> Result<Bytes, ClientError> {
    let value = value.map(str::to_owned);
    encode(&ValueRequest { lease_id: lease_id.to_owned(), value })
}
