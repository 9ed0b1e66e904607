//! Making, listing and revoking access tokens.

use hyper::Method;
use percent_encoding::utf8_percent_encode;

use crate::client::{Client, QUERY, encode};
use crate::error::ClientError;
use crate::wire::{
    AccessToken, AccessTokenRequest, AccessTokenRevoked, AccessTokens, FirstTokenRequest,
};

impl Client {
    /// The tokens, as the node that answers knows them; without their secrets.
    pub async fn tokens(&self) -> Result<AccessTokens, ClientError> {
        self.simple(Method::GET, "/v1/tokens", true).await
    }

    /// Makes a token. One whose answer was lost may be there, and nobody has it: look, and revoke it.
    pub async fn create_token(
        &self,
        request: &AccessTokenRequest,
    ) -> Result<AccessToken, ClientError> {
        self.send(Method::POST, "/v1/tokens", encode(request)?, false).await
    }

    /// Makes the first token, with all rights; only on the machine of a node.
    pub async fn first_token(&self, name: &str) -> Result<AccessToken, ClientError> {
        let body = encode(&FirstTokenRequest { name: name.to_owned() })?;
        self.send(Method::POST, "/v1/tokens/init", body, false).await
    }

    /// Revokes a token. Repeated, it says that there is none.
    pub async fn revoke_token(&self, token_id: &str) -> Result<AccessTokenRevoked, ClientError> {
        let path = format!("/v1/tokens/{}", utf8_percent_encode(token_id, QUERY));
        self.simple(Method::DELETE, &path, false).await
    }
}
