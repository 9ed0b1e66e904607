//! A cluster that runs: who answers, and whether they agree.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oarlock_client::wire::Cluster;

use super::{Finding, fail, pass, warn};
use crate::cli::locks::Target;

/// Of each question to a node; all nodes are asked at once.
const NODE_DEADLINE: Duration = Duration::from_secs(3);

/// A leader hears its majority several times a second.
const QUORUM_WARN_MS: u64 = 2_000;
/// By then another would lead if there were a majority.
const QUORUM_FAIL_MS: u64 = 10_000;
/// A member so far behind is about to need a snapshot, or is down.
const LAG_WARN_ENTRIES: u64 = 10_000;

/// The metric by which a node tells what it is.
const BUILD: &str = "oarlock_build{";

/// What one address answered.
struct Asked {
    address: String,
    cluster: Option<Cluster>,
    /// The labels of its build: version, protocol, level.
    build: Option<String>,
}

pub(super) async fn examine(target: &Target) -> Vec<Finding> {
    let mut asked = ask(target, target.addresses()).await;
    // Members that nobody named are asked where the others reach them.
    let named: BTreeSet<u64> = answers(&asked).map(|it| it.node_id).collect();
    let known: BTreeMap<u64, String> = answers(&asked)
        .flat_map(|it| it.members.iter().map(|member| (member.id, member.api_address.clone())))
        .collect();
    let more = known.into_iter().filter(|(id, _)| !named.contains(id));
    let more = more.map(|(_, address)| address);
    let more = more.filter(|address| asked.iter().all(|it| it.address != *address)).collect();
    asked.extend(ask(target, more).await);

    let reachable = reachable(&asked);
    if answers(&asked).next().is_none() {
        return vec![reachable];
    }
    vec![
        reachable,
        identity(&asked),
        leader(&asked),
        quorum(&asked),
        members(&asked),
        builds(&asked),
    ]
}

async fn ask(target: &Target, addresses: Vec<String>) -> Vec<Asked> {
    let asking: Vec<_> = addresses
        .into_iter()
        .map(|address| {
            let client = target.client_at(&address, NODE_DEADLINE);
            tokio::spawn(async move {
                let cluster = client.cluster().await.ok();
                let page = match &cluster {
                    Some(_) => client.metrics().await.ok(),
                    None => None,
                };
                Asked { address, cluster, build: page.as_deref().and_then(build) }
            })
        })
        .collect();
    let mut asked = Vec::new();
    for answer in asking {
        asked.extend(answer.await.ok());
    }
    asked
}

fn answers(asked: &[Asked]) -> impl Iterator<Item = &Cluster> {
    asked.iter().filter_map(|it| it.cluster.as_ref())
}

fn build(page: &str) -> Option<String> {
    let line = page.lines().find_map(|line| line.strip_prefix(BUILD))?;
    Some(line.split('}').next()?.replace('"', "").replace(',', ", "))
}

fn reachable(asked: &[Asked]) -> Finding {
    let missed: Vec<&str> =
        asked.iter().filter(|it| it.cluster.is_none()).map(|it| it.address.as_str()).collect();
    let found = format!("{} of {} nodes answer", asked.len() - missed.len(), asked.len());
    match missed.len() {
        0 => pass("reachable", found),
        all if all == asked.len() => {
            fail("reachable", found, "check --endpoint, and whether nodes run")
        }
        _ => warn(
            "reachable",
            format!("{found}; silent: {}", missed.join(", ")),
            "start those nodes, or remove them with `oarlock members remove`",
        ),
    }
}

fn identity(asked: &[Asked]) -> Finding {
    let ids: BTreeSet<&str> = answers(asked).filter_map(|it| it.cluster_id.as_deref()).collect();
    match ids.len() {
        0 => fail("cluster", "no cluster was formed", "start all first members: see their logs"),
        1 => pass("cluster", ids.into_iter().collect::<String>()),
        _ => fail(
            "cluster",
            format!("{} clusters: {ids:?}", ids.len()),
            "the endpoints belong to different clusters: correct them",
        ),
    }
}

fn leader(asked: &[Asked]) -> Finding {
    let leaders: BTreeSet<u64> = answers(asked).filter_map(|it| it.leader_id).collect();
    let unready: Vec<String> =
        answers(asked).filter(|it| !it.ready).map(|it| it.node_id.to_string()).collect();
    // A node that is cut off names the last leader that it knew for as long as it is alone.
    let nobody = answers(asked).all(|it| !it.ready);
    let mut ids = leaders.iter();
    match (ids.next(), ids.next()) {
        (Some(_), _) if nobody => fail(
            "leader",
            format!("no node is in touch with a leader; the last that they knew: {leaders:?}"),
            "a majority of the voters must run and reach each other: start what is down",
        ),
        (None, _) => fail(
            "leader",
            "nobody leads",
            "a majority of the voters must run and reach each other: start what is down",
        ),
        (Some(_), Some(_)) => warn(
            "leader",
            format!("the nodes name different ones: {leaders:?}"),
            "an election may be under way: look again; else look at the network between them",
        ),
        (Some(leader), None) if unready.is_empty() => pass("leader", format!("node {leader}")),
        (Some(leader), None) => warn(
            "leader",
            format!("node {leader}, and not ready: node {}", unready.join(", ")),
            "they are out of touch or far behind: look at their logs and network",
        ),
    }
}

fn quorum(asked: &[Asked]) -> Finding {
    let age = answers(asked).filter_map(|it| it.quorum_age_ms).min();
    match age {
        None => fail(
            "quorum",
            "no node knows of a majority",
            "until a majority is back nothing is granted, and no lease ends: start what is down",
        ),
        Some(age) if age > QUORUM_FAIL_MS => fail(
            "quorum",
            format!("a majority answered {age} ms ago"),
            "until a majority is back nothing is granted, and no lease ends: start what is down",
        ),
        Some(age) if age > QUORUM_WARN_MS => warn(
            "quorum",
            format!("a majority answered {age} ms ago"),
            "slow disks or a slow network: see `oarlock doctor --config` on the machines",
        ),
        Some(age) => pass("quorum", format!("a majority answered {age} ms ago")),
    }
}

fn members(asked: &[Asked]) -> Finding {
    // Who leads knows how far the others are; all know who is one.
    let leads = answers(asked).find(|it| it.leader_id == Some(it.node_id));
    let Some(told) = leads.or_else(|| answers(asked).next()) else {
        return fail("members", "unknown", "no node answers");
    };
    let voters = told.members.iter().filter(|member| member.voter).count();
    let learners = told.members.len() - voters;
    let behind: Vec<String> = told
        .members
        .iter()
        .filter(|member| member.lag_entries.is_some_and(|lag| lag > LAG_WARN_ENTRIES))
        .map(|member| format!("node {}", member.id))
        .collect();
    let found = format!("{voters} voters, {learners} learners");
    if voters < 3 {
        warn("members", found, "the loss of one stops the cluster: add members up to three")
    } else if voters % 2 == 0 {
        warn("members", found, "an even number survives no more losses than one less: add one")
    } else if behind.is_empty() {
        pass("members", found)
    } else {
        warn(
            "members",
            format!("{found}; far behind: {}", behind.join(", ")),
            "are they up, and fast?",
        )
    }
}

fn builds(asked: &[Asked]) -> Finding {
    let told: BTreeSet<&str> = asked.iter().filter_map(|it| it.build.as_deref()).collect();
    let silent = asked.iter().any(|it| it.cluster.is_some() && it.build.is_none());
    let list = told.iter().copied().collect::<Vec<_>>().join("; ");
    match told.len() {
        _ if silent => warn(
            "builds",
            list,
            "a node does not tell what it is: give the token the right inspect, ask where its metrics are \
             (admin_address), or upgrade it",
        ),
        1 => pass("builds", list),
        _ => warn(
            "builds",
            list,
            "finish the upgrade: nodes of different builds are for hours, not days",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    fn node(node_id: u64, change: impl FnOnce(&mut Cluster)) -> Asked {
        let member = |id: u64| oarlock_client::wire::Member {
            id,
            api_address: format!("n{id}:7400"),
            peer_address: format!("n{id}:7401"),
            voter: true,
            lag_entries: None,
        };
        let mut cluster = Cluster {
            cluster_id: Some("c".to_owned()),
            node_id,
            leader_id: Some(1),
            term: 1,
            members: (1..=3).map(member).collect(),
            last_log_index: 9,
            applied_index: 9,
            snapshot_index: 0,
            quorum_age_ms: Some(40),
            ready: true,
        };
        change(&mut cluster);
        let page = "# EOF\noarlock_build{version=\"1\",protocol=\"3\"} 1\n";
        Asked { address: format!("n{node_id}:7400"), cluster: Some(cluster), build: build(page) }
    }

    fn silent() -> Asked {
        Asked { address: "gone:7400".to_owned(), cluster: None, build: None }
    }

    #[test]
    fn a_healthy_cluster_passes_everything() {
        let asked: Vec<Asked> = (1..=3).map(|id| node(id, |_| ())).collect();
        let all = [reachable, identity, leader, quorum, members, builds];
        for finding in all.map(|check| check(&asked)) {
            assert_eq!(finding.verdict, Verdict::Pass, "{finding:?}");
        }
        assert_eq!(builds(&asked).found, "version=1, protocol=3");
    }

    #[test]
    fn what_is_wrong_is_found() {
        let judged = |check: fn(&[Asked]) -> Finding, asked: &[Asked]| check(asked).verdict;
        assert_eq!(judged(reachable, &[silent()]), Verdict::Fail);
        assert_eq!(judged(reachable, &[node(1, |_| ()), silent()]), Verdict::Warn);
        let stranger = node(2, |it| it.cluster_id = Some("d".to_owned()));
        assert_eq!(judged(identity, &[node(1, |_| ()), stranger]), Verdict::Fail);
        assert_eq!(judged(leader, &[node(1, |it| it.leader_id = None)]), Verdict::Fail);
        let other = node(2, |it| it.leader_id = Some(2));
        assert_eq!(judged(leader, &[node(1, |_| ()), other]), Verdict::Warn);
        assert_eq!(judged(leader, &[node(1, |it| it.ready = false)]), Verdict::Fail);
        let lost = [node(1, |_| ()), node(2, |it| it.ready = false)];
        assert_eq!(judged(leader, &lost), Verdict::Warn);
        assert_eq!(judged(quorum, &[node(1, |it| it.quorum_age_ms = None)]), Verdict::Fail);
        assert_eq!(judged(quorum, &[node(1, |it| it.quorum_age_ms = Some(9_000))]), Verdict::Warn);
        assert_eq!(judged(quorum, &[node(1, |it| it.quorum_age_ms = Some(90_000))]), Verdict::Fail);
        assert_eq!(judged(members, &[node(1, |it| it.members.truncate(2))]), Verdict::Warn);
        let behind = node(1, |it| it.members[2].lag_entries = Some(20_000));
        assert_eq!(judged(members, &[behind]), Verdict::Warn);
        let upgraded = Asked { build: Some("version=2".to_owned()), ..node(2, |_| ()) };
        assert_eq!(judged(builds, &[node(1, |_| ()), upgraded]), Verdict::Warn);
    }
}
