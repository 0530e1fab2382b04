use proptest::prelude::*;

use super::*;

fn pod(uid: &str) -> PodEntry {
    PodEntry {
        uid: PodUid::parse(uid).unwrap(),
        cgroup_uid: None,
        namespace: "shop".into(),
        name: format!("pod-{uid}").into(),
        service_account: "default".into(),
        ips: Box::default(),
        host_network: false,
        finished: false,
        siblings_may_read: true,
        role: None,
        external_id: None,
        session_name: None,
        container_roles: Box::default(),
        containers: Box::default(),
    }
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(1_000_000 + seconds)
}

/// A schedule without a limit for the node, to observe the limits of one pod and reason.
fn without_node_limit() -> Schedule {
    with_burst(1000)
}

fn with_burst(burst: u32) -> Schedule {
    let limits = Limits::default();
    Schedule::new(Limits { writes: Rate { burst, ..limits.writes }, ..limits })
}

impl Schedule {
    /// Records a denial with a fixed explanation.
    fn deny_now(&mut self, second: u64, uid: &str, reason: Denial) -> Noted {
        self.deny(at(second), &pod(uid), reason, || "why".into())
    }

    /// Writes everything that may be written now. Events are named after the pod.
    fn publish(&mut self, second: u64) -> Vec<Report> {
        let mut reports = Vec::new();
        while let Ok(report) = self.next(at(second)) {
            let event = report.series.as_ref().map_or_else(|| report.name.clone(), |series| series.event.clone());
            self.written(at(second), &report, event);
            reports.push(report);
        }
        reports
    }

    fn published(&mut self, second: u64) -> Vec<(String, Denial)> {
        self.publish(second).into_iter().map(|report| (report.pod.as_str().to_owned(), report.reason)).collect()
    }
}

#[test]
fn first_at_once_then_at_growing_intervals() {
    let mut schedule = without_node_limit();
    let mut told = Vec::new();
    for second in 0..2 * 3600 {
        schedule.deny_now(second, "a", Denial::NoRole);
        told.extend(schedule.publish(second).into_iter().map(|report| (second, report.series)));
    }
    let seconds: Vec<u64> = told.iter().map(|(second, _)| *second).collect();
    assert_eq!(seconds, [0, 60, 180, 420, 900, 1800, 2700, 3600, 4500, 5400, 6300]);
    assert_eq!(told[0].1, None, "the first is a new Event");
    for (second, series) in &told[1..] {
        let expected = Series { event: "pod-a".into(), count: u32::try_from(*second).unwrap() + 1 };
        assert_eq!(series.as_ref(), Some(&expected), "all later ones count on it");
    }
}

#[test]
fn a_pod_that_stops_asking_gets_no_more_events() {
    let mut schedule = without_node_limit();
    for second in 0..30 {
        schedule.deny_now(second, "a", Denial::NoRole);
    }
    assert_eq!(schedule.publish(30).len(), 1);
    for second in 31..3600 {
        assert_eq!(schedule.next(at(second)), Err(TIDY), "at {second}");
    }
}

#[test]
fn reasons_and_pods_have_their_own_clocks() {
    let mut schedule = without_node_limit();
    schedule.deny_now(0, "a", Denial::NoRole);
    assert_eq!(schedule.published(0).len(), 1);
    assert_eq!(schedule.deny_now(1, "a", Denial::NoRole), Noted::Counted);
    assert_eq!(schedule.deny_now(1, "a", Denial::WrongRole), Noted::Queued);
    assert_eq!(schedule.deny_now(1, "b", Denial::NoRole), Noted::Queued);
    assert_eq!(schedule.published(1).len(), 2);
}

#[test]
fn a_node_has_one_bucket() {
    let mut schedule = Schedule::new(Limits::default());
    let mut writes = Vec::new();
    for second in 0..=60 {
        // Each second, two hundred new pods are denied for every reason.
        for uid in 0..200 {
            for reason in Denial::ALL {
                schedule.deny_now(second, &format!("{second}-{uid}"), reason);
            }
        }
        writes.extend(schedule.publish(second).iter().map(|_| second));
    }
    assert_eq!(writes, [0, 0, 0, 10, 20, 30, 40, 50, 60]);
    assert_eq!(schedule.entries, Limits::default().entries, "the number of entries is bounded");
    assert_eq!(schedule.deny_now(61, "late", Denial::NoRole), Noted::Dropped);
}

#[test]
fn the_bucket_says_when_to_retry() {
    let mut schedule = Schedule::new(Limits::default());
    for uid in ["a", "b", "c", "d"] {
        schedule.deny_now(0, uid, Denial::NoRole);
    }
    assert_eq!(schedule.publish(0).len(), 3);
    assert_eq!(schedule.next(at(4)), Err(Duration::from_secs(6)));
    assert_eq!(schedule.publish(10).len(), 1);
}

#[test]
fn a_pod_without_events_comes_first() {
    let mut schedule = with_burst(1);
    schedule.deny_now(0, "loud", Denial::NoRole);
    assert_eq!(schedule.published(0), [("loud".into(), Denial::NoRole)]);
    // A pod that has an Event is denied again and for two new reasons, before the first denials of other pods.
    schedule.deny_now(100, "loud", Denial::NoRole);
    schedule.deny_now(100, "loud", Denial::WrongRole);
    schedule.deny_now(100, "loud", Denial::OwnRole);
    schedule.deny_now(101, "new", Denial::WrongRole);
    schedule.deny_now(102, "newer", Denial::NoRole);
    let order: Vec<_> = (0..5).flat_map(|n| schedule.published(110 + 10 * n)).collect();
    let expected = [
        ("new", Denial::WrongRole),
        ("newer", Denial::NoRole),
        ("loud", Denial::WrongRole),
        ("loud", Denial::OwnRole),
        ("loud", Denial::NoRole),
    ];
    assert_eq!(order, expected.map(|(uid, reason)| (uid.to_owned(), reason)));
}

#[test]
fn a_pod_that_is_gone_is_forgotten() {
    let mut schedule = with_burst(1);
    schedule.deny_now(0, "a", Denial::NoRole);
    schedule.publish(0);
    schedule.deny_now(1, "a", Denial::WrongRole);
    schedule.deny_now(1, "b", Denial::NoRole);
    assert_eq!(schedule.forget(&PodUid::parse("a").unwrap()), 1, "one of its entries was still waiting");
    assert_eq!(schedule.entries, 1);
    assert_eq!(schedule.published(20), [("b".into(), Denial::NoRole)]);
    // A pod that is deleted while its Event is being written is not remembered again.
    schedule.deny_now(40, "c", Denial::NoRole);
    let report = schedule.next(at(40)).unwrap();
    assert_eq!(schedule.forget(&report.pod), 0);
    schedule.written(at(41), &report, "event".into());
    assert_eq!(schedule.entries, 1);
}

#[test]
fn an_entry_quiet_for_an_hour_is_new_again() {
    let mut schedule = without_node_limit();
    schedule.deny_now(0, "a", Denial::NoRole);
    schedule.deny_now(0, "b", Denial::NoRole);
    schedule.publish(0);
    schedule.deny_now(1800, "b", Denial::NoRole);
    assert_eq!(schedule.publish(1800).len(), 1);
    assert_eq!(schedule.tidy(at(3000)), 0);
    assert_eq!(schedule.tidy(at(4000)), 0, "no entry was waiting");
    assert_eq!(schedule.entries, 1);
    schedule.deny_now(4000, "a", Denial::NoRole);
    assert_eq!(schedule.publish(4000)[0].series, None);
    // An entry that waits for longer than an hour is dropped.
    schedule.deny_now(5000, "a", Denial::OwnRole);
    assert_eq!(schedule.tidy(at(9000)), 1);
    assert!(schedule.entries == 0);
}

#[test]
fn failures_pause_the_node_and_lose_nothing() {
    let mut schedule = with_burst(1000);
    schedule.deny_now(0, "a", Denial::NoRole);
    let mut pauses = Vec::new();
    let mut second = 0;
    for _ in 0..9 {
        let report = schedule.next(at(second)).unwrap();
        schedule.failed(at(second), &report, Failure::Retry, 0.5);
        let pause = schedule.next(at(second)).unwrap_err().as_secs();
        // Denials in the meantime neither pile up nor cause an earlier write.
        assert_eq!(schedule.deny_now(second + 1, "a", Denial::NoRole), Noted::Counted);
        assert!(schedule.next(at(second + pause - 1)).is_err());
        second += pause;
        pauses.push(pause);
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    assert_eq!(schedule.entries, 1);
    // The entry is written as soon as possible, and the next failure starts from the shortest pause.
    assert_eq!(schedule.publish(second).len(), 1);
    schedule.deny_now(second, "b", Denial::NoRole);
    let report = schedule.next(at(second)).unwrap();
    schedule.failed(at(second), &report, Failure::Retry, 0.5);
    assert_eq!(schedule.next(at(second)), Err(Duration::from_secs(10)));
}

#[test]
fn a_failed_entry_does_not_block_others() {
    let mut schedule = Schedule::new(Limits::default());
    schedule.deny_now(0, "bad", Denial::NoRole);
    let report = schedule.next(at(0)).unwrap();
    schedule.failed(at(0), &report, Failure::Retry, 0.5);
    schedule.deny_now(1, "good", Denial::NoRole);
    let good = schedule.next(at(10)).unwrap();
    assert_eq!(&*good.name, "pod-good");
    // Writes work again, so the failed entry is retried before repetitions.
    schedule.written(at(10), &good, "event".into());
    schedule.deny_now(70, "good", Denial::NoRole);
    assert_eq!(schedule.published(70), [("bad".into(), Denial::NoRole), ("good".into(), Denial::NoRole)]);
}

#[test]
fn a_rejected_entry_is_not_retried() {
    let mut schedule = without_node_limit();
    schedule.deny_now(0, "a", Denial::NoRole);
    let report = schedule.next(at(0)).unwrap();
    schedule.failed(at(0), &report, Failure::Rejected, 0.5);
    assert_eq!(schedule.deny_now(899, "a", Denial::NoRole), Noted::Counted);
    assert_eq!(schedule.deny_now(900, "a", Denial::NoRole), Noted::Queued);
    schedule.deny_now(900, "b", Denial::NoRole);
    assert_eq!(schedule.publish(900).len(), 2, "other entries do not wait for it");
}

#[test]
fn a_deleted_event_is_created_again() {
    let mut schedule = without_node_limit();
    schedule.deny_now(0, "a", Denial::NoRole);
    schedule.publish(0);
    schedule.deny_now(60, "a", Denial::NoRole);
    let report = schedule.next(at(60)).unwrap();
    assert!(report.series.is_some());
    schedule.failed(at(60), &report, Failure::Gone, 0.5);
    let again = schedule.next(at(60)).unwrap();
    assert_eq!(again, Report { series: None, ..report });
}

#[test]
fn another_explanation_is_another_event() {
    let mut schedule = without_node_limit();
    let explain = |schedule: &mut Schedule, second, why: &str| {
        schedule.deny(at(second), &pod("a"), Denial::NamespaceNotPermitted, || why.into());
        schedule.publish(second)
    };
    let first = explain(&mut schedule, 0, "role web").remove(0);
    let second = explain(&mut schedule, 60, "role db").remove(0);
    assert!(first.note.contains("role web") && second.note.contains("role db"));
    assert_eq!(second.series, None, "an Event's note cannot be changed");
    schedule.deny_now(100, "a", Denial::NoRole);
    let third = explain(&mut schedule, 180, "role db");
    let series = third.iter().find_map(|report| report.series.as_ref()).unwrap();
    assert_eq!(series.count, 2, "counted from its own Event");
}

#[test]
fn an_entry_that_waits_long_says_what_is_wrong_now() {
    let mut schedule = with_burst(1);
    schedule.deny_now(0, "other", Denial::NoRole);
    schedule.publish(0);
    for (second, why) in [(1, "old"), (2, "ignored"), (61, "new")] {
        schedule.deny(at(second), &pod("a"), Denial::BadRole, || why.into());
    }
    assert!(schedule.publish(61)[0].note.contains(": new. Fix:"));
}

#[test]
fn the_note_is_name_reason_and_fix_within_bounds() {
    for reason in Denial::ALL {
        let short = note(reason, "what it is here");
        assert_eq!(&*short, format!("{reason}: what it is here. Fix: {}", reason.fix()));
        for long in ["x".repeat(5000), "ä".repeat(5000), "\u{1F980}".repeat(5000)] {
            let cut = note(reason, &long);
            assert!(cut.len() <= NOTE && cut.len() > NOTE - 8, "{} bytes", cut.len());
            assert!(cut.ends_with(&format!("…. Fix: {}", reason.fix())) && cut.starts_with(reason.name()));
        }
        assert!(!note(reason, "a\nb\x1b[31mc").contains(char::is_control));
    }
}

#[test]
fn a_static_pod_is_shown_by_the_uid_of_its_cgroup() {
    let mut schedule = without_node_limit();
    let mut mirror = pod("api");
    mirror.cgroup_uid = Some(PodUid::parse("0123456789abcdef0123456789abcdef").unwrap());
    schedule.deny(at(0), &mirror, Denial::NoRole, String::new);
    let report = schedule.next(at(0)).unwrap();
    assert_eq!((report.pod.as_str(), report.shown_uid.as_str()), ("api", "0123456789abcdef0123456789abcdef"));
}

/// Positive control: without limits the schedule writes every Event, so the tests above really measure the limits.
#[test]
fn control_without_limits_everything_is_written() {
    let limits = Limits::default();
    let none = Limits {
        writes: Rate { every: Duration::ZERO, ..limits.writes },
        repeat: Backoff::new(Duration::ZERO, Duration::ZERO),
        ..limits
    };
    let mut schedule = Schedule::new(none);
    let told: usize = (0..100)
        .map(|second| {
            schedule.deny_now(second, "a", Denial::NoRole);
            schedule.publish(second).len()
        })
        .sum();
    assert_eq!(told, 100);
}

/// One step of a test: the milliseconds before the step, the pod, the reason, and whether writes succeed.
fn step() -> impl Strategy<Value = (u64, u8, usize, bool)> {
    (0u64..5000, 0u8..8, 0..Denial::ALL.len(), prop::bool::weighted(0.9))
}

proptest! {
    #[test]
    fn the_bounds_hold_whatever_happens(steps in prop::collection::vec(step(), 1..600)) {
        let limits = Limits::default();
        let mut schedule = Schedule::new(limits);
        let mut now = at(0);
        let mut attempts = Vec::new();
        let mut success: HashMap<(PodUid, Denial), Vec<Duration>> = HashMap::new();
        for (pause, uid, reason, works) in steps {
            now += Duration::from_millis(pause);
            if uid == 7 {
                schedule.forget(&PodUid::parse("6").unwrap());
                success.retain(|(pod, _), _| pod.as_str() != "6");
            }
            schedule.deny(now, &pod(&uid.to_string()), Denial::ALL[reason], || "why".into());
            schedule.tidy(now);
            while let Ok(report) = schedule.next(now) {
                attempts.push(now);
                if works {
                    success.entry((report.pod.clone(), report.reason)).or_default().push(now);
                    schedule.written(now, &report, "event".into());
                } else {
                    schedule.failed(now, &report, Failure::Retry, 0.0);
                }
            }
            prop_assert!(schedule.entries <= limits.entries);
        }
        for (first, begin) in attempts.iter().enumerate() {
            let within = attempts[first..].iter().filter(|attempt| **attempt <= *begin + Duration::from_secs(60));
            prop_assert!(within.count() <= 9);
        }
        for times in success.values() {
            let mut least = limits.repeat.first;
            for pair in times.windows(2) {
                prop_assert!(pair[1] - pair[0] >= least, "{:?}", times);
                least = (least * 2).min(limits.repeat.max);
            }
        }
    }
}
