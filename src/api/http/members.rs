//! The members of the cluster: who they are, invitations, and changes. Replication decides what the
//! quorum allows; here it becomes sentences.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use oarlock_client::wire::{
    Invitation, InvitationRequest, Members, MembersChanged, ReplaceRequest,
};

use super::body;
use super::error::Refusal;
use super::query::Parameters;
use super::routes::{App, Route, unexpected};
use super::translate;
use crate::service::members::{
    INVITATION_MS_DEFAULT, INVITATION_MS_MAX, INVITATION_MS_MIN, MembersCall, MembersRefusal,
    MembersReply,
};
use crate::service::replicator::{Call, NodeId, Replicator, ReplyBody};

/// What all paths of one member begin with.
const PREFIX: &str = "/v1/members/";

/// Answers the paths of the members.
pub(super) async fn answer<R: Replicator>(
    app: &App<R>,
    (route, method): (Route, Method),
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    match (route, method) {
        (Route::Members, Method::GET) => list(app, parts),
        (Route::Members, Method::POST) => invite(app, parts, body).await,
        (Route::Member, Method::DELETE) => remove(app, parts, body).await,
        (Route::MemberPromote, Method::POST) => promote(app, parts, body).await,
        (Route::MemberReplace, Method::POST) => replace(app, parts, body).await,
        (other, _) => Err(Refusal::method_not_allowed(other.allow())),
    }
}

fn list<R: Replicator>(app: &App<R>, parts: &Parts) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    let cluster = translate::cluster(&app.service.node_state());
    let members = Members { leader_id: cluster.leader_id, members: cluster.members };
    Ok(body::answer(StatusCode::OK, &members))
}

async fn invite<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    Parameters::read(parts.uri.query(), &[])?;
    let InvitationRequest { node_id, ttl_ms } = body::json(body).await?;
    let ttl_ms = ttl_ms.unwrap_or(INVITATION_MS_DEFAULT);
    if !(INVITATION_MS_MIN..=INVITATION_MS_MAX).contains(&ttl_ms) {
        return Err(Refusal::bad_request(&format!(
            "ttl_ms of an invitation is {INVITATION_MS_MIN} to {INVITATION_MS_MAX} milliseconds"
        )));
    }
    match change(app, MembersCall::Invite { node_id, ttl_ms }).await? {
        MembersReply::Invited { token, expires_in_ms } => {
            let (node_id, join_token) = (token.node_id, token.to_string());
            Ok(body::answer(StatusCode::OK, &Invitation { node_id, join_token, expires_in_ms }))
        }
        MembersReply::Joined(_) | MembersReply::Changed | MembersReply::Refused(_) => {
            Err(unexpected())
        }
    }
}

async fn promote<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let node_id = node_id(parts, "/promote")?;
    Parameters::read(parts.uri.query(), &[])?;
    body::nothing(body).await?;
    change(app, MembersCall::Promote(node_id)).await?;
    Ok(changed(node_id, "voter"))
}

async fn remove<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let node_id = node_id(parts, "")?;
    let parameters = Parameters::read(parts.uri.query(), &["force"])?;
    let force = match parameters.text("force") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Refusal::bad_request("force is true or false")),
    };
    body::nothing(body).await?;
    change(app, MembersCall::Remove { node_id, force }).await?;
    Ok(changed(node_id, "removed"))
}

async fn replace<R: Replicator>(
    app: &App<R>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let old = node_id(parts, "/replace")?;
    Parameters::read(parts.uri.query(), &[])?;
    let ReplaceRequest { with: new } = body::json(body).await?;
    if old == new {
        return Err(Refusal::bad_request("a member is replaced with another one"));
    }
    change(app, MembersCall::Replace { old, new }).await?;
    Ok(changed(old, "removed"))
}

fn changed(node_id: NodeId, is_now: &str) -> Response {
    body::answer(StatusCode::OK, &MembersChanged { node_id, is_now: is_now.to_owned() })
}

fn node_id(parts: &Parts, suffix: &str) -> Result<NodeId, Refusal> {
    let rest = parts.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let digits = rest.strip_suffix(suffix).unwrap_or(rest);
    digits.parse().map_err(|_| Refusal::bad_request("the id of a node is a number"))
}

async fn change<R: Replicator>(app: &App<R>, call: MembersCall) -> Result<MembersReply, Refusal> {
    let reply = app.ask(Call::Members(call)).await?;
    match reply.body {
        ReplyBody::Members(MembersReply::Refused(refusal)) => Err(refused(&refusal)),
        ReplyBody::Members(reply) => Ok(reply),
        _ => Err(unexpected()),
    }
}

fn refused(refusal: &MembersRefusal) -> Refusal {
    match refusal {
        MembersRefusal::NoSuchMember(id) => Refusal::no_member(&format!(
            "node {id} is no member of this cluster; /v1/members lists them"
        )),
        MembersRefusal::IdUsed { next } => Refusal::id_used(&format!(
            "ids are never used again: take {next} or a higher one, or leave node_id out"
        )),
        MembersRefusal::Behind { node_id, entries: Some(entries) } => {
            Refusal::member_behind(&format!(
                "node {node_id} is {entries} log entries behind and cannot vote yet; it goes on \
                 catching up, so ask again"
            ))
        }
        MembersRefusal::Behind { node_id, entries: None } => Refusal::member_behind(&format!(
            "nothing was heard of node {node_id} yet; is it running, and can the leader reach its \
             peer address?"
        )),
        MembersRefusal::Busy => Refusal::members_busy(
            "another change of the members is under way; ask again when it is done",
        ),
        MembersRefusal::TooFew { left: 0 } => {
            Refusal::quorum_at_risk("the last voter cannot be removed")
        }
        MembersRefusal::TooFew { left } => Refusal::quorum_at_risk(&format!(
            "{left} voters would be left, and then the loss of one stops the cluster; add and \
             promote another member first, or say force=true"
        )),
        MembersRefusal::OutOfTouch { answer, needed } => Refusal::quorum_at_risk(&format!(
            "of the voters that would be left only {answer} answer and {needed} must, so the \
             cluster would stop; bring them back first, or say force=true"
        )),
        MembersRefusal::IdTooHigh { highest } => Refusal::bad_request(&format!(
            "node_id is at most {highest}: ids are never used again, and must not run out"
        )),
        MembersRefusal::Token(_) | MembersRefusal::Address(_) => unexpected(),
    }
}
