//! Changing the members of a cluster.

use hyper::Method;

use crate::client::{Client, encode};
use crate::error::ClientError;
use crate::wire::{Invitation, InvitationRequest, Members, MembersChanged, ReplaceRequest};

impl Client {
    /// The members, as the node that answers knows them.
    pub async fn members(&self) -> Result<Members, ClientError> {
        self.simple(Method::GET, "/v1/members", true).await
    }

    /// Invites one machine. An invitation whose answer was lost opens nothing for anybody.
    pub async fn invite(&self, request: &InvitationRequest) -> Result<Invitation, ClientError> {
        self.send(Method::POST, "/v1/members", encode(request)?, false).await
    }

    /// Makes a member that has caught up a voter.
    pub async fn promote(&self, node_id: u64) -> Result<MembersChanged, ClientError> {
        self.simple(Method::POST, &format!("/v1/members/{node_id}/promote"), true).await
    }

    /// Removes a member for good; by force also when too few voters are left or answer.
    pub async fn remove_member(
        &self,
        node_id: u64,
        force: bool,
    ) -> Result<MembersChanged, ClientError> {
        let force = if force { "?force=true" } else { "" };
        self.simple(Method::DELETE, &format!("/v1/members/{node_id}{force}"), true).await
    }

    /// Makes one member a voter and removes the other, in one change.
    pub async fn replace_member(&self, old: u64, new: u64) -> Result<MembersChanged, ClientError> {
        let body = encode(&ReplaceRequest { with: new })?;
        self.send(Method::POST, &format!("/v1/members/{old}/replace"), body, true).await
    }
}
