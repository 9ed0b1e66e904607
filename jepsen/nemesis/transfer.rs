//! Leadership is handed over on request, once to a node by name and some times to whoever is
//! closest behind, in quick succession.

use std::time::Duration;

use oarlock_jepsen::chance::Chance;

use crate::cluster::Cluster;

/// Right after an election a hand-over may be refused.
const TRY_PAUSE: Duration = Duration::from_millis(200);
const TRIES_MAX: usize = 25;

pub(super) async fn begin(
    cluster: &Cluster,
    chance: &mut Chance,
) -> Result<(String, Vec<usize>), String> {
    let times = 1 + chance.below(3);
    for time in 0..times {
        let members = cluster.members();
        let one = usize::try_from(chance.below(members.len() as u64)).unwrap_or(0);
        hand_over(cluster, (time == 0).then(|| members[one])).await?;
    }
    Ok((format!("leadership handed over {times} times"), Vec::new()))
}

/// Hands over to a node, or to any; it happened once another leads.
async fn hand_over(cluster: &Cluster, to: Option<usize>) -> Result<(), String> {
    let mut why = "nobody leads".to_owned();
    for _ in 0..TRIES_MAX {
        if let Some(leader) = cluster.leader_if_known().await {
            // To itself it would be no fault.
            let to = to.filter(|to| *to != leader).map(|to| cluster.id(to));
            match cluster.client(leader).transfer_leader(to).await {
                Ok(now) if now.leader_id != cluster.id(leader) => return Ok(()),
                Ok(now) => why = format!("{now:?}"),
                Err(error) => why = error.to_string(),
            }
        }
        tokio::time::sleep(TRY_PAUSE).await;
    }
    Err(format!("leadership was not handed over: {why}"))
}
