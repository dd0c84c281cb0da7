//! What a backlog took is the system's again when it is gone.

use ibex_gearman_proto::{Request, Submit};
use ibex_testkit::{Daemon, wait};

use crate::packets::Wire;

/// Jobs of a kilobyte, three times: the second and third backlog find what the first left.
const JOBS: usize = 60_000;

#[test]
#[cfg(target_env = "gnu")]
fn a_backlog_gives_its_memory_back() {
    let daemon = Daemon::builder("ibex-gearmand")
        .set("queue", "memory")
        .start()
        .unwrap();
    let resident = || daemon.metric("process_resident_memory_bytes").unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let submit = Submit::new(b"f", b"", &[b'x'; 1000]).background();
    let mut packets = Vec::new();
    for _ in 0..1000 {
        Request::Submit(submit).encode(&mut packets);
    }
    let before = resident();
    for _ in 0..3 {
        for _ in 0..JOBS / 1000 {
            wire.send_bytes(&packets);
            for _ in 0..1000 {
                wire.handle();
            }
        }
        let taken = resident() - before;
        assert!(taken > 60e6, "{taken} bytes for 60 MB of workloads");
        assert_eq!(wire.line("purge f"), format!("text OK {JOBS}\\r\\n"));
        // A tenth is left as a rule; how much the C library keeps at the end of its heap is its own business.
        wait::until_true("most of the memory to be given back", || {
            resident() - before < taken / 2.0
        })
        .unwrap();
    }
    daemon.stop().unwrap();
}
