//! What one replicator promises while its disk, its database or its store fail.

use std::io::ErrorKind as Io;
use std::time::Duration;

use replicate_format::Txid;

use super::testing::Rig;
use crate::disk::faulty::Op;
use crate::event::State;

const S: fn(u64) -> Duration = Duration::from_secs;

#[tokio::test(start_paused = true)]
async fn what_is_committed_arrives_and_a_stop_says_so() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    let status = rig.sync(&shared).await;
    assert!(status.in_sync, "{status:?}");
    assert_eq!(status.state, State::Streaming);
    rig.write(2, 100);
    let report = rig.stop(&shared, S(5)).await;
    assert!(report.flushed, "{report:?}");
    assert_eq!(report.remote_txid, Txid(2));
    rig.assert_stored().await;
}
