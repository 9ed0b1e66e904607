//! Members come and go: a machine with an empty disk joins by invitation, and one that was a member
//! goes, the leader as often as not; removed after the other was promoted, or replaced in one change.
//!
//! Whatever has to be asked for is asked again, at one node after the other, while other faults come
//! and go: whoever was asked may be lost meanwhile. Those faults leave the two machines alone, but
//! for their links. Who was removed must learn it and stop by itself; in the end as many vote as
//! before, and all of them know who.

use oarlock_jepsen::chance::Chance;
use tokio::task::JoinHandle;

use crate::changes::{self, Step};
use crate::cluster::Cluster;

/// A change of the members under way.
pub(crate) struct Change {
    asking: JoinHandle<Result<(), String>>,
    leaving: usize,
    /// How long its log was.
    logged: usize,
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
    let invitation = changes::invite(&apis).await?;
    let (old, new) = (cluster.id(leaving), invitation.node_id);
    let (steps, how): (&[Step], _) = if chance.below(2) == 0 {
        (&[Step::Joined, Step::Promoted, Step::Removed], "joins, and then the")
    } else {
        (&[Step::Joined, Step::Replaced], "joins in the place of the")
    };
    let logged = cluster.log_length(leaving);
    cluster.goes(leaving);
    let joining = cluster.let_in(new, invitation.join_token)?;
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
    changes::has_learnt(cluster, *leaving, *logged).await?;
    cluster.settle()?;
    changes::all_know(cluster).await
}

impl Asks {
    async fn for_all(&self, steps: &[Step]) -> Result<(), String> {
        for &step in steps {
            let (new, old) = (self.new, self.old);
            let what = format!("{step:?} (node {new}, and {old} goes)");
            changes::again(&what, &self.apis, |client| async move {
                step.ask(&client, new, old).await.map(|done| done.then_some(()))
            })
            .await?;
        }
        Ok(())
    }
}
