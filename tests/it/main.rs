//! Tests across processes: real nodes, real disks, real kills. Each test has a cluster of its own.
//! They wait for conditions; the deadlines only keep a failure from hanging.

#![expect(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "node numbers are small, a test may block its own thread between two looks, and a failure shows its logs"
)]

mod api_docs;
mod audit;
mod backups;
mod bench;
mod boards;
mod cli;
mod clients;
mod clocks;
mod cluster;
mod containers;
mod dev;
mod disks;
mod doctor;
mod http;
mod kills;
mod leaders;
mod members;
mod names;
mod peers;
mod pipelines;
mod prove;
mod rolling;
mod secure;
mod services;
mod streams;
mod yaml;
