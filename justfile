# Shorthands. Nothing needs them: `.ci/run` and the commands of the README say the same in full.

# Everything CI checks; changes no file.
verify:
    .ci/run

# Formats, and applies what clippy can repair by itself.
fix:
    cargo fmt --all
    cargo clippy --fix --allow-dirty --allow-staged --workspace --all-targets --locked

# All tests; arguments go to cargo, as in `just test --test tidy`.
test *arguments:
    cargo test --workspace --locked {{arguments}}

# Three nodes on this machine, until interrupted.
dev *arguments:
    cargo run --locked -- dev {{arguments}}

# The whole-system benchmark, with the optimized build.
bench *arguments:
    cargo run --release --locked -- bench {{arguments}}

# Instructions of the core for each operation, as ratios against the baseline; needs valgrind. Fails above 1.05.
bench-core:
    cargo bench --locked -p oarlock-core --bench core -- --counts

# The same, and makes what it counted the baseline.
bench-core-save:
    cargo bench --locked -p oarlock-core --bench core -- --save

# Times instead of instructions, for orientation.
bench-core-times:
    cargo bench --locked -p oarlock-core --bench core

# What a million clients cost one group, and how names spread over several.
scale:
    cargo bench --locked -p oarlock-core --bench core -- --scale
    cargo run --locked -p oarlock-client --example shards

# Fuzzes the API of a cluster from its own description, with so many examples for each call.
fuzz-api examples="500" seed="1":
    tests/clients/fuzz.sh {{examples}} {{seed}}

# Locks and releases so many names and checks that memory and disk stay flat (20 minutes for ten million).
names count="10000000":
    OARLOCK_NAMES={{count}} cargo test --release --locked --test it f14 -- --nocapture

# Runs so many hostile inputs through each decoder.
fuzz runs="100000" seed="1":
    OARLOCK_FUZZ_RUNS={{runs}} OARLOCK_FUZZ_SEED={{seed}} cargo test --locked --test fuzz

# The same for so many seconds each.
fuzz-for seconds="600" seed="1":
    OARLOCK_FUZZ_SECONDS={{seconds}} OARLOCK_FUZZ_SEED={{seed}} cargo test --locked --test fuzz -- --nocapture

# Cuts the power of the store at every call to the disk, and once more after each cut: the long form.
crash-points scripts="200" seed="1":
    OARLOCK_CRASH_STRIDE=1 OARLOCK_FLIPS=5000 OARLOCK_CRASH_SCRIPTS={{scripts}} OARLOCK_CRASH_SEED={{seed}} cargo test --release --locked --lib raft::store::crash

# Rounds of overlapping faults against real processes, with faults of disks and clocks inside. Needs root.
jepsen rounds="300" seed="1" *arguments:
    cargo build --release --locked --features proof --bin oarlock --bin oarlock-jepsen
    target/release/oarlock-jepsen run --rounds {{rounds}} --seed {{seed}} {{arguments}}

# Kills so many leaders and measures until the next grant; three election timeouts are promised.
recovery kills="100":
    cargo build --release --locked --bin oarlock --bin oarlock-jepsen
    target/release/oarlock-jepsen recovery --kills {{kills}}

# Lets so many leases fall due at once and measures until all are over, and what others wait meanwhile.
drain leases="100000":
    cargo build --release --locked --bin oarlock --bin oarlock-jepsen
    target/release/oarlock-jepsen drain --leases {{leases}}

# Restarts whoever leads, so many times, and measures the longest time without a grant; 250 ms is the goal.
rolling restarts="10" clients="32":
    cargo build --release --locked --bin oarlock --bin oarlock-jepsen
    target/release/oarlock-jepsen rolling --restarts {{restarts}} --clients {{clients}}

# Grows three nodes to five, replaces the first three and shrinks to three again, under load.
growth clients="32":
    cargo build --release --locked --bin oarlock --bin oarlock-jepsen
    target/release/oarlock-jepsen growth --clients {{clients}}

# Simulates whole clusters, a seed each, in as many threads as there are cores: the long form.
sim seeds="1..1001" seconds="20":
    OARLOCK_SEEDS={{seeds}} OARLOCK_SIM_SECONDS={{seconds}} cargo test --locked --test sim seeds -- --nocapture

# Runs each planted bug against the layer that has to notice it; `just planted 10` the short form.
planted bugs="":
    OARLOCK_BUGS={{bugs}} cargo test --locked --features proof,otel --test planted

# Traces, from real nodes to a collector.
otel:
    cargo test --locked --features otel --test otel
