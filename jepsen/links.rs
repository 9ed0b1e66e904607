//! The connections between nodes: namespaces whose packets are dropped, or, without root, a proxy
//! before each node that holds bytes back. Either counts what it kept from arriving.

use std::time::Duration;

use crate::network::Network;
use crate::proxy::Proxies;

pub(crate) enum Links {
    Namespaces(Network),
    Proxies(Proxies),
    /// Nothing between the nodes that could be cut.
    Bare,
}

fn bare<T>() -> Result<T, String> {
    Err("nothing stands between the nodes of this run".to_owned())
}

impl Links {
    /// Proxies before the peers, and where they listen.
    pub(crate) async fn proxies(peers: &[String]) -> Result<(Self, Vec<String>), String> {
        let (proxies, addresses) = Proxies::start(peers).await?;
        Ok((Self::Proxies(proxies), addresses))
    }

    /// Notes which process a node is.
    pub(crate) fn lives_in(&self, node: usize, process: Option<u32>) {
        match self {
            Self::Proxies(proxies) => proxies.lives_in(node, process),
            Self::Namespaces(_) | Self::Bare => {}
        }
    }

    /// What `from` sends no longer reaches `to`.
    pub(crate) fn cut(&self, from: usize, to: usize) -> Result<(), String> {
        match self {
            Self::Namespaces(network) => network.cut(from, to),
            Self::Proxies(proxies) => proxies.rule(from, to, |rule| rule.cut = true),
            Self::Bare => bare(),
        }
    }

    /// Of what `from` sends to `to`, so many per cent are lost, and come late.
    pub(crate) fn lose(&self, from: usize, to: usize, percent: u64) -> Result<(), String> {
        match self {
            Self::Namespaces(network) => network.lose(from, to, percent),
            Self::Proxies(proxies) => proxies.rule(from, to, |rule| rule.lost_percent = percent),
            Self::Bare => bare(),
        }
    }

    /// What `from` sends to `to` takes so long. Only proxies can.
    pub(crate) fn slow(&self, from: usize, to: usize, delay: Duration) -> Result<(), String> {
        match self {
            Self::Proxies(proxies) => proxies.rule(from, to, |rule| rule.delay = delay),
            Self::Namespaces(_) | Self::Bare => bare(),
        }
    }

    /// What was kept from arriving so far: packets or pieces.
    pub(crate) fn dropped(&self) -> Result<u64, String> {
        match self {
            Self::Namespaces(network) => network.dropped(),
            Self::Proxies(proxies) => Ok(proxies.held()),
            Self::Bare => bare(),
        }
    }

    /// Every link is whole again. Returns what was kept from arriving: a cut that kept nothing was
    /// no fault.
    pub(crate) fn heal(&self) -> Result<u64, String> {
        match self {
            Self::Namespaces(network) => network.heal(),
            Self::Proxies(proxies) => Ok(proxies.heal()),
            Self::Bare => bare(),
        }
    }
}
