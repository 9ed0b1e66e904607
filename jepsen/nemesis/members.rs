//! Members come and go: a machine with an empty disk joins by invitation, and one that was a member
//! goes, the leader as often as not; removed after the other was promoted, or replaced in one change.
//!
//! Whatever has to be asked for is asked again, at one node after the other, while other faults come
//! and go: whoever was asked may be lost meanwhile. Those faults leave the two machines alone, but
//! for their links. Who was removed must learn it and stop by itself; in the end as many vote as
//! before, and all of them know who.

use std::time::Duration;

use oarlock_client::wire::{Invitation, InvitationRequest};
use oarlock_client::{Client, ClientError, Options};
use oarlock_jepsen::chance::Chance;
use tokio::task::JoinHandle;
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

/// A change of the members under way.
pub(crate) struct Change {
    asking: JoinHandle<Result<(), String>>,
    leaving: usize,
    /// How long its log was.
    logged: usize,
}

/// What comes about, one after the other.
#[derive(Debug, Clone, Copy)]
enum Step {
    Joined,
    Promoted,
    Removed,
    Replaced,
}

/// Who asks for it.
struct Asks {
    apis: Vec<String>,
    new: u64,
    old: u64,
}

pub(super) async fn begin(
    cluster: &mut Cluster,
    chance: &mut Chance,
) -> Result<(String, Change), String> {
    let members = cluster.members();
    let leader = cluster.leader_if_known().await;
    let one = members[usize::try_from(chance.below(members.len() as u64)).unwrap_or(0)];
    let leaving = leader.filter(|_| chance.below(2) == 0).unwrap_or(one);
    let whom = if Some(leaving) == leader { "leader" } else { "follower" };
    let apis: Vec<String> = members.iter().map(|node| cluster.endpoints()[*node].clone()).collect();
    let invitation = invite(&apis).await?;
    let (old, new) = (cluster.id(leaving), invitation.node_id);
    let (steps, how): (&[Step], _) = if chance.below(2) == 0 {
        (&[Step::Joined, Step::Promoted, Step::Removed], "joins, and then the")
    } else {
        (&[Step::Joined, Step::Replaced], "joins in the place of the")
    };
    let logged = cluster.log_length(leaving);
    let joining = cluster.let_in(new, invitation.join_token, leaving)?;
    let away = if steps.len() == 3 { " goes" } else { "" };
    let asks = Asks { apis, new, old };
    let asking = tokio::spawn(async move { asks.for_all(steps).await });
    let what = format!("node {new} at machine {joining} {how} {whom}, node {old}{away}");
    Ok((what, Change { asking, leaving, logged }))
}

/// Whatever else was done is over by now: it comes about, and everybody knows it.
pub(super) async fn end(cluster: &mut Cluster, change: &mut Change) -> Result<(), String> {
    let Change { asking, leaving, logged } = change;
    let asked = asking.await;
    asked.map_err(|error| format!("the change of the members ended: {error}"))??;
    // Another fault may have killed it: then it is told when it starts.
    cluster.launch_if_killed(*leaving)?;
    let code = cluster.wait_ended(*leaving).await?;
    let log = cluster.log_since(*leaving, *logged);
    if code != REFUSED_CODE || !log.contains(REFUSED_SAYS) {
        return Err(format!("a node that was removed ended with {code} and said:\n{log}"));
    }
    cluster.settle()?;
    all_know(cluster).await
}

/// An invitation whose answer was lost opens nothing, so another one is asked for.
async fn invite(apis: &[String]) -> Result<Invitation, String> {
    again("an invitation", apis, |client| async move {
        client.invite(&InvitationRequest::default()).await.map(Some)
    })
    .await
}

impl Asks {
    async fn for_all(&self, steps: &[Step]) -> Result<(), String> {
        for &step in steps {
            let (new, old) = (self.new, self.old);
            let what = format!("{step:?} (node {new}, and {old} goes)");
            again(&what, &self.apis, |client| async move {
                step.ask(&client, new, old).await.map(|done| done.then_some(()))
            })
            .await?;
        }
        Ok(())
    }
}

impl Step {
    /// Whether it has come about; each may be asked for again.
    async fn ask(self, client: &Client, new: u64, old: u64) -> Result<bool, ClientError> {
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

/// Asks one node after the other until one has an answer. Each time by a connection of its own: the
/// one before may be to a node that hangs.
async fn again<T, F>(what: &str, apis: &[String], ask: impl Fn(Client) -> F) -> Result<T, String>
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

/// Waits until every member knows the same members, and that all of them vote.
async fn all_know(cluster: &Cluster) -> Result<(), String> {
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
