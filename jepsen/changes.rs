//! Changes of the members, as an operator asks for them: again and again, at one node after the other,
//! until each has come about.

use std::time::Duration;

use oarlock_client::wire::{Invitation, InvitationRequest};
use oarlock_client::{Client, ClientError, Options};
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;

/// Of one question: a promotion is waited for by the leader for some seconds.
const DEADLINE: Duration = Duration::from_secs(9);

/// Pause between two tries, and how long they go on: other faults must end meanwhile.
const TRY_PAUSE: Duration = Duration::from_millis(200);
const GIVE_UP: Duration = Duration::from_mins(4);

/// How a node ends that may not go on, and what it says of it.
const REFUSED_CODE: i32 = 5;
const REFUSED_SAYS: &str = "it was removed from this cluster";

/// What comes about, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Joined,
    Promoted,
    Removed,
    Replaced,
}

impl Step {
    /// Whether it has come about; each may be asked for again.
    pub(crate) async fn ask(
        self,
        client: &Client,
        new: u64,
        old: u64,
    ) -> Result<bool, ClientError> {
        match self {
            Self::Joined => {
                let known = client.members().await?.members;
                Ok(known.iter().any(|member| member.id == new))
            }
            Self::Promoted => client.promote(new).await.map(|_| true),
            Self::Removed => client.remove_member(old, false).await.map(|_| true),
            Self::Replaced => client.replace_member(old, new).await.map(|_| true),
        }
    }
}

/// An invitation whose answer was lost opens nothing, so another one is asked for.
pub(crate) async fn invite(apis: &[String]) -> Result<Invitation, String> {
    again("an invitation", apis, |client| async move {
        client.invite(&InvitationRequest::default()).await.map(Some)
    })
    .await
}

/// Asks one node after the other until one has an answer. Each time by a connection of its own: the
/// one before may be to a node that hangs.
pub(crate) async fn again<T, F>(
    what: &str,
    apis: &[String],
    ask: impl Fn(Client) -> F,
) -> Result<T, String>
where
    F: Future<Output = Result<Option<T>, ClientError>>,
{
    let until = Instant::now() + GIVE_UP;
    let mut why = "not yet".to_owned();
    for api in apis.iter().cycle() {
        let endpoints = vec![api.clone()];
        match ask(Client::new(Options { endpoints, deadline: DEADLINE, ..Options::default() }))
            .await
        {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => "not yet".clone_into(&mut why),
            Err(error) => why = error.to_string(),
        }
        if Instant::now() > until {
            break;
        }
        sleep(TRY_PAUSE).await;
    }
    Err(format!("{what} did not come about: {why}"))
}

/// Who was removed ends by itself and says why; `logged` is how long its log was before.
pub(crate) async fn has_learnt(
    cluster: &mut Cluster,
    leaving: usize,
    logged: usize,
) -> Result<(), String> {
    let code = cluster.wait_ended(leaving).await?;
    let log = cluster.log_since(leaving, logged);
    if code == REFUSED_CODE && log.contains(REFUSED_SAYS) {
        return Ok(());
    }
    Err(format!("a node that was removed ended with {code} and said:\n{log}"))
}

/// Waits until every member knows the same members, and that all of them vote.
pub(crate) async fn all_know(cluster: &Cluster) -> Result<(), String> {
    let mut expected: Vec<(u64, bool)> =
        cluster.members().iter().map(|node| (cluster.id(*node), true)).collect();
    expected.sort_unstable();
    for node in cluster.members() {
        let what = format!("node {} knows {expected:?}", cluster.id(node));
        let (api, expected) = (cluster.endpoints()[node].clone(), &expected);
        again(&what, &[api], |client| async move {
            let known = client.members().await?.members;
            let mut known: Vec<_> = known.iter().map(|it| (it.id, it.voter)).collect();
            known.sort_unstable();
            Ok((known == *expected).then_some(()))
        })
        .await?;
    }
    Ok(())
}
