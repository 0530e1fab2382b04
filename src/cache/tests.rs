use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use tokio::time::Instant;

use super::*;
use crate::issuer::{Code, Source};
use crate::types::{RoleArn, Secret, SessionName};

/// A clock that follows tokio's paused clock, so that timers and ages agree.
#[derive(Clone)]
struct Anchored(Instant);

impl Clock for Anchored {
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.boot()
    }
    fn boot(&self) -> Duration {
        Duration::from_secs(1_000_000) + self.0.elapsed()
    }
}

struct FakeIssuer {
    clock: Anchored,
    calls: Arc<AtomicU32>,
    answer: Arc<Mutex<Result<Duration, Code>>>,
    takes: Duration,
}

impl Issuer for FakeIssuer {
    async fn issue(&self, _: &IssueRequest) -> Result<Credentials, IssueError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        let life = self.answer.lock().unwrap().map_err(IssueError::from_code)?;
        let now = self.clock.boot();
        Ok(Credentials {
            access_key_id: format!("ASIA{call}").into(),
            secret_access_key: Secret::new("s".into()),
            session_token: Secret::new("t".into()),
            expiration: self.clock.wall() + life,
            issued_at: now,
            expires_at: now + life,
        })
    }
}

struct Test {
    cache: CredentialCache<FakeIssuer, Anchored>,
    calls: Arc<AtomicU32>,
    answer: Arc<Mutex<Result<Duration, Code>>>,
}

impl Test {
    fn new() -> Self {
        let clock = Anchored(Instant::now());
        let (calls, answer) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Ok(HOUR))));
        let takes = Duration::from_millis(50);
        let issuer = FakeIssuer { clock: clock.clone(), calls: calls.clone(), answer: answer.clone(), takes };
        let cache = CredentialCache::new(issuer, clock, || 0.5, Handle::current(), Arc::new(Metrics::new()));
        Self { cache, calls, answer }
    }

    async fn ask(&self, session: &str) -> Result<String, WaitError> {
        let (request, pod) = (request(session), uid(session));
        let Unchecked(issued) = match self.cache.get(&request, &pod) {
            Cached::Ready(unchecked) => unchecked,
            Cached::Denied(error) => return Err(WaitError::Issuer(error)),
            Cached::Pending(pending) => {
                self.cache.wait(pending, &mut Deadline::after(Duration::from_millis(800))).await?
            }
        };
        Ok(issued.credentials.access_key_id.to_string())
    }

    fn pending(&self, session: &str) -> Pending {
        match self.cache.get(&request(session), &uid(session)) {
            Cached::Pending(pending) => pending,
            Cached::Ready(_) | Cached::Denied(_) => panic!("an empty cache has an answer"),
        }
    }

    /// Whether the cache has valid credentials for `pod`.
    fn hits(&self, session: &str, pod: &str) -> bool {
        matches!(self.cache.get(&request(session), &uid(pod)), Cached::Ready(_))
    }

    fn held(&self) -> usize {
        self.cache.lock().len()
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn request(session: &str) -> IssueRequest {
    IssueRequest {
        source: Source::AssumeRole { first_hop: None },
        role: RoleArn::parse("arn:aws:iam::111122223333:role/web").unwrap(),
        session_name: SessionName::of_node(session),
        external_id: None,
        duration: HOUR,
        region: "us-west-2".into(),
    }
}

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

async fn advance(minutes: u64) {
    // The time advances in small steps, so that a timer that another timer sets also fires.
    for _ in 0..minutes * 4 {
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_that_miss_together_are_one_call() {
    let test = Test::new();
    let answers = futures_util::future::join_all((0..1000).map(|_| test.ask("a"))).await;
    assert!(answers.iter().all(|answer| answer.as_deref() == Ok("ASIA0")));
    assert_eq!(test.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn refreshed_before_half_of_life_without_being_asked() {
    let test = Test::new();
    assert_eq!(test.ask("a").await.as_deref(), Ok("ASIA0"));
    advance(26).await;
    assert_eq!(test.ask("a").await.as_deref(), Ok("ASIA0"));
    advance(2).await;
    assert_eq!((test.calls(), test.ask("a").await.as_deref()), (2, Ok("ASIA1")));
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_keeps_serving_until_expiry_and_never_after() {
    let test = Test::new();
    assert_eq!(test.ask("a").await.as_deref(), Ok("ASIA0"));
    *test.answer.lock().unwrap() = Err(Code::Network);
    advance(59).await;
    assert_eq!(test.ask("a").await.as_deref(), Ok("ASIA0"));
    advance(2).await;
    assert!(test.ask("a").await.is_err(), "what has ended is not served");
    *test.answer.lock().unwrap() = Ok(HOUR);
    advance(1).await;
    assert!(test.ask("a").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_kept_ten_seconds_and_then_asked_again() {
    let test = Test::new();
    *test.answer.lock().unwrap() = Err(Code::AccessDenied);
    let denied = Err(WaitError::Issuer(IssueError::from_code(Code::AccessDenied)));
    assert_eq!(test.ask("a").await, denied);
    for _ in 0..50 {
        assert_eq!(test.ask("a").await, denied);
    }
    assert_eq!(test.calls(), 1);
    *test.answer.lock().unwrap() = Ok(HOUR);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(test.ask("a").await.as_deref(), Ok("ASIA1"));
}

#[tokio::test(start_paused = true)]
async fn a_denial_does_not_outlive_its_time_however_long_nobody_asked() {
    let test = Test::new();
    *test.answer.lock().unwrap() = Err(Code::AccessDenied);
    assert!(test.ask("a").await.is_err());
    advance(1).await;
    assert!(test.ask("a").await.is_err());
    *test.answer.lock().unwrap() = Ok(HOUR);
    advance(120).await;
    assert!(test.ask("a").await.is_ok(), "the first to ask after hours waits for the new word");
}

#[tokio::test(start_paused = true)]
async fn a_call_under_way_is_not_cut_when_its_pod_goes() {
    let test = Test::new();
    let pending = test.pending("a");
    tokio::time::sleep(Duration::from_millis(10)).await;
    test.cache.forget_all_but(&uid("a"), &[]);
    assert!(test.held() == 0);
    let late = test.cache.wait(pending, &mut Deadline::after(Duration::from_millis(800))).await;
    assert!(late.is_ok(), "the call ended, and with it its record");
    advance(60).await;
    assert_eq!(test.calls(), 1, "and was the last");
}

#[tokio::test(start_paused = true)]
async fn lives_of_no_length_are_no_loop() {
    let test = Test::new();
    *test.answer.lock().unwrap() = Ok(Duration::ZERO);
    assert!(test.ask("a").await.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(test.calls() <= 12, "{}", test.calls());
}

#[tokio::test(start_paused = true)]
async fn a_denial_nobody_asks_about_is_not_retried() {
    let test = Test::new();
    *test.answer.lock().unwrap() = Err(Code::AccessDenied);
    assert!(test.ask("a").await.is_err());
    advance(60).await;
    // The denied request causes at most one more attempt.
    assert!(test.calls() <= 2, "{}", test.calls());
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_waited_out_within_the_callers_patience() {
    let test = Test::new();
    *test.answer.lock().unwrap() = Err(Code::Throttling);
    let (answer, ()) = tokio::join!(test.ask("a"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        *test.answer.lock().unwrap() = Ok(HOUR);
    });
    assert_eq!(answer.as_deref(), Ok("ASIA1"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_issuer_costs_a_timeout_and_its_answer_is_kept() {
    let test = Test::new();
    let pending = test.pending("a");
    let early = test.cache.wait(pending, &mut Deadline::after(Duration::from_millis(10))).await;
    assert_eq!(early.unwrap_err(), WaitError::TimedOut);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((test.ask("a").await.as_deref(), test.calls()), (Ok("ASIA0"), 1), "the call went on without its caller");
}

#[tokio::test(start_paused = true)]
async fn an_identity_ends_with_its_last_pod() {
    let test = Test::new();
    assert!(test.ask("a").await.is_ok());
    assert!(test.hits("a", "b"));
    test.cache.forget_all_but(&uid("a"), &[]);
    assert_eq!(test.held(), 1, "b still uses it");
    test.cache.forget_all_but(&uid("b"), &[]);
    assert!(test.held() == 0);
    advance(60).await;
    assert_eq!(test.calls(), 1, "no refresh for nobody");
}

#[tokio::test(start_paused = true)]
async fn never_more_than_its_bound_and_what_had_to_go_is_refreshed_no_more() {
    const MORE: usize = 100;
    let test = Test::new();
    let most = MAX_KEYS.get();
    let calls = |count: usize| u32::try_from(count).unwrap();
    let ask = |number: usize| test.hits(&format!("s{number}"), "a");
    assert!((0..most).all(|number| !ask(number)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((test.held(), test.calls()), (most, calls(most)));
    // Key 0 has been used again, so another key is evicted next.
    assert!(ask(0));
    for number in most..most + MORE {
        assert!(!ask(number));
        assert!(test.held() == most);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(test.calls(), calls(most + MORE));
    advance(28).await;
    assert_eq!(test.calls(), calls(most + MORE + most), "one refresh of each that is held, and of no other");
    assert!(ask(0) && ask(MORE + 1) && ask(most + MORE - 1) && !ask(1) && !ask(MORE));
    assert_eq!(test.held(), most);
}

/// A change of any single input makes a different key.
#[test]
fn the_key_is_the_complete_set_of_inputs() {
    use crate::types::ExternalId;
    let base = request("a");
    let role = |text: &str| RoleArn::parse(text).unwrap();
    let hop = Source::AssumeRole { first_hop: Some(role("arn:aws:iam::111122223333:role/hop")) };
    let id = ExternalId::parse("tenant").unwrap();
    let others = [
        IssueRequest { source: hop, ..base.clone() },
        IssueRequest { role: role("arn:aws:iam::111122223333:role/other"), ..base.clone() },
        IssueRequest { session_name: SessionName::of_node("b"), ..base.clone() },
        IssueRequest { external_id: Some(id), ..base.clone() },
        IssueRequest { duration: HOUR / 2, ..base.clone() },
        IssueRequest { region: "eu-west-1".into(), ..base.clone() },
    ];
    let distinct: HashSet<&IssueRequest> = others.iter().chain([&base]).collect();
    assert_eq!(distinct.len(), 7);
}
