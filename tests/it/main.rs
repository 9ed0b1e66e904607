//! Tests across processes: real nodes, real disks, real kills. Each test has a cluster of its own.
//! They wait for conditions; the deadlines only keep a failure from hanging.

mod clients;
mod cluster;
mod dev;
mod disks;
mod http;
mod kills;
mod leaders;
