//! What one replicator promises while its disk, its database or its store fail.

use std::io::ErrorKind as Io;
use std::time::Duration;

use replicate_format::Txid;

use super::testing::Rig;
use crate::config::{ConfigKey, Options};
use crate::disk::faulty::Op;
use crate::event::{Event, State};
use crate::exec::Blocking;

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
#[tokio::test(start_paused = true)]
async fn a_stop_whose_last_capture_fails_tries_again_until_its_time_is_over() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    // Committed and not noticed yet; then the disk is full for a while.
    rig.write(2, 100);
    rig.faults.fail(Op::Create, "spool/0", 0, 3, Io::StorageFull);
    let report = rig.stop(&shared, S(30)).await;
    assert_eq!(rig.faults.hits(), 3);
    assert!(report.flushed, "{report:?}");
    rig.assert_stored().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_cannot_capture_is_not_flushed_and_says_why() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.write(2, 100);
    rig.faults.fail(Op::Create, "spool/0", 0, u32::MAX, Io::StorageFull);
    let report = rig.stop(&shared, S(3)).await;
    assert!(!report.flushed, "{report:?}");
    let error = report.error.unwrap();
    assert!(format!("{:?}", std::error::Error::source(&error)).contains("storage"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_in_sync_while_capture_fails() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.pass(S(2)).await;
    rig.write(2, 100);
    rig.faults.fail(Op::Create, "spool/0", 0, u32::MAX, Io::StorageFull);
    rig.until("the failure", S(10), || rig.faults.hits() > 0).await;
    assert!(!shared.status().in_sync);
    rig.faults.clear();
    rig.until("in sync again", S(60), || shared.status().in_sync).await;
    rig.assert_stored().await;
}

#[tokio::test(start_paused = true)]
async fn a_spool_file_that_rots_during_a_stop_is_captured_again() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.set_down(true);
    rig.write(2, 100);
    shared.request_stop(S(30));
    let spooled = rig.folder.path().join(".app.db-replicate/spool/0/0000000000000002-0000000000000002.ltx");
    rig.until("spooled", S(5), || spooled.exists()).await;
    let mut bytes = std::fs::read(&spooled).unwrap();
    bytes[150] ^= 1;
    std::fs::write(&spooled, bytes).unwrap();
    rig.set_down(false);
    rig.until("the end", S(40), || shared.report().is_some()).await;
    let report = shared.report().unwrap();
    assert!(report.flushed, "{report:?}");
    rig.assert_stored().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_moment_at_an_idle_poll_is_over_when_it_is_over() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    let events = shared.subscribe();
    rig.pass(S(1)).await;
    rig.script.refuse("look", 0, 1);
    let told = || events.next(Duration::ZERO);
    let is_to = |event: &Event, state: State| matches!(event, Event::State { to, .. } if *to == state);
    rig.until("stalled", S(20), || std::iter::from_fn(told).any(|event| is_to(&event, State::Stalled))).await;
    rig.until("streaming", S(5), || shared.status().state == State::Streaming).await;
    assert!(shared.status().last_error.is_none());
    assert!(shared.status().in_sync);
}

#[tokio::test(start_paused = true)]
async fn an_upload_does_not_hide_that_capture_fails() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.set_down(true);
    rig.write(2, 100);
    rig.until("spooled", S(20), || shared.status().local_txid == Txid(2)).await;
    rig.write(3, 100);
    rig.faults.fail(Op::Create, "spool/0", 0, u32::MAX, Io::StorageFull);
    rig.until("the failure", S(20), || rig.faults.hits() > 0).await;
    rig.set_down(false);
    rig.until("shipped", S(60), || shared.status().remote_txid == Txid(2)).await;
    let status = shared.status();
    assert_eq!(status.state, State::Stalled);
    assert!(status.last_error.is_some_and(|e| e.to_string().contains("spool file")));
    rig.faults.clear();
    rig.until("streaming", S(60), || shared.status().state == State::Streaming).await;
    rig.assert_stored().await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_does_not_hide_that_capture_pauses() {
    let rig = Rig::new();
    let config = Options::new().with(ConfigKey::Url, "memory://rig").with(ConfigKey::SpoolLimit, "16MiB");
    let shared = rig.start_with(config.check().unwrap());
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.set_down(true);
    let full = || shared.status().last_error.is_some_and(|e| e.to_string().contains("spool is full"));
    for id in 0..5 {
        rig.write(10 + id, 4 << 20);
        let local = shared.status().local_txid;
        rig.until("captured", S(60), || shared.status().local_txid > local || full()).await;
    }
    rig.until("full", S(60), full).await;
    let remote = shared.status().remote_txid;
    let events = shared.subscribe();
    rig.set_down(false);
    rig.until("one more shipped", S(60), || shared.status().remote_txid > remote).await;
    rig.until("drained", S(60), || shared.status().in_sync).await;
    // Four files of 4 MiB wait; capture goes on when half of the limit has drained.
    let mut shipped = 0;
    while let Some(event) = events.next(Duration::ZERO) {
        match event {
            Event::Shipped { .. } => shipped += 1,
            Event::State { to: State::Streaming, .. } => assert!(shipped > 1, "streaming while capture pauses"),
            _ => {}
        }
    }
    rig.assert_stored().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_in_quiet_ends_nothing() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    for path in ["ledger", "state"] {
        rig.faults.fail(Op::Write, path, 0, 3, Io::StorageFull);
    }
    rig.until("the failure", S(20), || shared.status().last_error.is_some()).await;
    assert_eq!(shared.status().state, State::Streaming, "commits arrive all the same");
    rig.until("written in the end", S(60), || shared.status().last_error.is_none()).await;
    rig.write(2, 100);
    rig.sync(&shared).await;
    assert!(rig.stop(&shared, S(5)).await.flushed);
    rig.assert_stored().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_has_arrived_and_cannot_be_removed_ends_nothing() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.set_down(true);
    rig.write(2, 100);
    rig.until("spooled", S(10), || shared.status().local_txid == Txid(2)).await;
    rig.pass(S(10)).await;
    rig.faults.fail(Op::Remove, "spool/0", 0, 2, Io::PermissionDenied);
    rig.set_down(false);
    rig.until("shipped", S(60), || shared.status().remote_txid == Txid(2)).await;
    rig.until("removed", S(60), || rig.spooled() == 0 && shared.status().last_error.is_none()).await;
    assert_eq!(rig.faults.hits(), 2);
    assert_eq!(shared.status().state, State::Streaming);
}

#[tokio::test(start_paused = true)]
async fn starting_over_is_tried_until_it_succeeds() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.stop(&shared, S(5)).await;
    // The replica goes on without us, so the local chain is worth nothing.
    rig.copy_object(1, 2).await;
    rig.copy_object(1, 3).await;
    // Nothing is left over that would be removed at the start.
    rig.faults.fail(Op::Remove, "/ledger", 0, 3, Io::PermissionDenied);
    let shared = rig.start();
    rig.write(2, 100);
    let status = rig.sync(&shared).await;
    assert_eq!(rig.faults.hits(), 3);
    assert_eq!(status.remote_txid, Txid(4));
}

#[tokio::test(start_paused = true)]
async fn a_state_folder_that_cannot_be_opened_is_tried_again_and_a_stop_does_not_wait_for_it() {
    let rig = Rig::new();
    rig.faults.fail(Op::OpenRw, "/state", 0, 4, Io::PermissionDenied);
    let shared = rig.start();
    rig.until("stalled", S(5), || shared.status().state == State::Stalled).await;
    rig.write(1, 100);
    rig.sync(&shared).await;
    assert_eq!(rig.faults.hits(), 4);
    assert!(rig.stop(&shared, S(5)).await.flushed);
    rig.assert_stored().await;

    rig.faults.fail(Op::OpenRw, "/state", 0, u32::MAX, Io::PermissionDenied);
    let shared = rig.start();
    let report = rig.stop(&shared, S(2)).await;
    assert!(!report.flushed && report.error.is_some(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_look_while_an_interval_runs_ends_nothing() {
    let rig = Rig::new();
    let config = Options::new().with(ConfigKey::Url, "memory://rig").with(ConfigKey::SyncInterval, "1s");
    let shared = rig.start_with(config.check().unwrap());
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.script.refuse("look", 0, 1);
    rig.pass(S(1)).await;
    rig.write(2, 100);
    rig.sync(&shared).await;
    assert_eq!(shared.status().state, State::Streaming);
    rig.assert_stored().await;
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_written_at_the_end_does_not_make_a_stop_a_failure() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.write(2, 100);
    rig.faults.fail(Op::Write, "ledger", 0, u32::MAX, Io::StorageFull);
    let report = rig.stop(&shared, S(5)).await;
    assert!(report.flushed && rig.faults.hits() > 0, "{report:?}");
    rig.faults.clear();
    let shared = rig.start();
    rig.write(3, 100);
    rig.sync(&shared).await;
    rig.assert_stored().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_sleep_through_the_return_of_the_store() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.set_down(true);
    rig.write(2, 100);
    // By now the waits are half a minute long.
    rig.pass(S(150)).await;
    let calls = rig.store_calls();
    rig.until("the next attempt", S(31), || rig.store_calls() > calls).await;
    rig.set_down(false);
    let report = rig.stop(&shared, S(5)).await;
    assert!(report.flushed, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sync_does_not_sleep_through_the_return_of_the_store_and_does_not_hammer_one_that_is_down() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.set_down(true);
    rig.write(2, 100);
    rig.pass(S(150)).await;
    let calls = rig.store_calls();
    for _ in 0..100 {
        shared.request();
        rig.pass(Duration::from_millis(10)).await;
    }
    let calls = rig.store_calls() - calls;
    assert!((1..=8).contains(&calls), "{calls} attempts within a second");
    rig.pass(S(150)).await;
    rig.set_down(false);
    let request = shared.request();
    rig.until("arrived", S(2), || shared.arrived(request).is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_does_not_sleep_through_the_end_of_a_full_disk() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    rig.sync(&shared).await;
    rig.write(2, 100);
    rig.faults.fail(Op::Create, "spool/0", 0, u32::MAX, Io::StorageFull);
    rig.pass(S(150)).await;
    let hits = rig.faults.hits();
    rig.until("the next attempt", S(31), || rig.faults.hits() > hits).await;
    rig.faults.clear();
    let request = shared.request();
    rig.until("arrived", S(2), || shared.arrived(request).is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_may_be_given_all_the_time_there_is() {
    let rig = Rig::new();
    let shared = rig.start();
    rig.write(1, 100);
    shared.request_stop(Duration::MAX);
    rig.until("the end", S(5), || shared.report().is_some()).await;
    assert!(shared.stop(Duration::MAX).unwrap().flushed);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_answer_shows_in_the_status_without_the_worker() {
    let mut rig = Rig::new();
    rig.blocking = Blocking::Pool;
    let shared = rig.start();
    rig.write(1, 100);
    assert!(rig.sync(&shared).await.in_sync);
    rig.pass(S(300)).await;
    assert!(shared.status().in_sync, "quiet is no silence");
    rig.faults.hold(Op::Sync, "spool/0");
    rig.write(2, 100);
    shared.request();
    let begun = std::time::Instant::now();
    while rig.faults.hits() == 0 {
        assert!(begun.elapsed() < S(20));
        tokio::task::yield_now().await;
    }
    tokio::time::advance(S(59)).await;
    assert_eq!(shared.status().state, State::Streaming);
    tokio::time::advance(S(2)).await;
    let status = shared.status();
    rig.faults.clear();
    assert_eq!(status.state, State::Stalled);
    assert!(!status.in_sync);
    assert!(status.last_error.is_some_and(|e| e.to_string().contains("does not move")));
    assert!(rig.sync(&shared).await.in_sync);
    assert_eq!(shared.status().state, State::Streaming);
}
