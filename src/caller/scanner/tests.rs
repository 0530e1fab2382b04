use std::sync::{Arc, Mutex};

use super::*;

const COMPLETE: Scanned = Scanned { coverage: Coverage::Complete, again: None };

/// A scanner that records its scans, each of which lasts `cost`.
fn scanner(rate: Rate, cost: Duration) -> (Scanner, Arc<Mutex<Vec<Scan>>>) {
    let scans = Arc::new(Mutex::new(Vec::new()));
    let (scanner, requests) = Scanner::new();
    let recorded = scans.clone();
    let scan = move |scan| {
        recorded.lock().unwrap().push(scan);
        let (_sender, never) = mpsc::channel::<()>();
        let _ = never.recv_timeout(cost);
        COMPLETE
    };
    requests.run("test", rate, scan).unwrap();
    (scanner, scans)
}

fn full(scans: &Mutex<Vec<Scan>>) -> usize {
    scans.lock().unwrap().iter().filter(|scan| **scan == Scan::Full).count()
}

#[tokio::test]
async fn requesters_share_a_scan_that_begins_after_their_request() {
    let (scanner, scans) = scanner(Rate { burst: 1, every: Duration::from_millis(50) }, Duration::ZERO);
    assert_eq!(full(&scans), 1, "the first scan ends before the thread is started");
    assert_eq!(scanner.rescan().await, Coverage::Complete);
    assert_eq!(full(&scans), 2);
    // The bucket is empty now, so these fifty requests share one scan.
    futures_util::future::join_all((0..50).map(|_| scanner.rescan())).await;
    assert_eq!(full(&scans), 3);
}

#[tokio::test]
async fn only_a_token_buys_a_full_scan() {
    let (scanner, scans) = scanner(Rate { burst: 1, every: Duration::from_secs(3600) }, Duration::ZERO);
    scanner.changed();
    assert_eq!(scanner.rescan().await, Coverage::Complete, "this one takes the token");
    // Scans caused by notifications continue and answer requesters, but they stay incremental.
    for _ in 0..5 {
        scanner.changed();
        assert_eq!(scanner.rescan().await, Coverage::Partial);
    }
    let scans = scans.lock().unwrap().clone();
    assert_eq!(scans.iter().filter(|scan| **scan == Scan::Full).count(), 2, "{scans:?}");
}

/// Requesters that are answered by scans caused by notifications take no tokens, so no later requester has to wait for these
/// tokens.
#[tokio::test]
async fn churn_with_misses_leaves_the_bucket_as_it_is() {
    let (scanner, scans) = scanner(Rate { burst: 1, every: Duration::from_millis(400) }, Duration::ZERO);
    let begin = SystemClock.boot();
    while SystemClock.boot() - begin < Duration::from_millis(1000) {
        scanner.changed();
        scanner.rescan().await;
    }
    assert!(full(&scans) <= 5, "{:?}", scans.lock().unwrap());
    let begin = SystemClock.boot();
    while scanner.rescan().await == Coverage::Partial {}
    assert!(SystemClock.boot() - begin < Duration::from_millis(600), "a new requester waits for one token at most");
}

#[tokio::test]
async fn a_requester_that_gave_up_costs_nothing() {
    let (scanner, scans) = scanner(Rate { burst: 1, every: Duration::from_millis(100) }, Duration::ZERO);
    assert_eq!(scanner.rescan().await, Coverage::Complete);
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(10), scanner.rescan()).await.is_err());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(full(&scans), 2, "{:?}", scans.lock().unwrap());
}

#[tokio::test]
async fn slow_scans_leave_the_core_to_others() {
    let (scanner, scans) = scanner(Rate { burst: 1, every: Duration::from_secs(3600) }, Duration::from_millis(20));
    let begin = SystemClock.boot();
    while SystemClock.boot() - begin < Duration::from_millis(500) {
        scanner.changed();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let count = scans.lock().unwrap().len();
    assert!(count <= 7, "{count} scans of 20 ms in 500 ms");
}

#[tokio::test]
async fn lost_notifications_cause_a_full_scan() {
    let (scanner, scans) = scanner(Rate { burst: 1, every: Duration::from_millis(50) }, Duration::ZERO);
    scanner.lost();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(full(&scans), 2, "{:?}", scans.lock().unwrap());
}
