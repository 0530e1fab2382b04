use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;

use super::*;
use crate::clock::SystemClock;

/// Records the destination of a call and aborts it.
#[derive(Clone, Debug, Default)]
struct Destination(Arc<Mutex<String>>);

impl Intercept for Destination {
    fn name(&self) -> &'static str {
        "Destination"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request().uri().clone_into(&mut self.0.lock().unwrap());
        Err("not to be sent".into())
    }
}

/// The global endpoint must not be used: it is in another region, and its tokens are not valid everywhere.
#[tokio::test]
async fn each_region_has_its_own_endpoint() {
    for (region, host) in [
        ("eu-central-1", "sts.eu-central-1.amazonaws.com"),
        ("us-east-1", "sts.us-east-1.amazonaws.com"),
        ("ap-southeast-5", "sts.ap-southeast-5.amazonaws.com"),
        ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
    ] {
        let settings = Settings {
            region: region.into(),
            first_hop: None,
            node_session: SessionName::of_node("node-1"),
            ca_bundle: None,
        };
        let shared = shared_config(&settings).await.unwrap();
        let keys = aws_credential_types::Credentials::new("AKIAEXAMPLE", "secret", None, None, "test");
        let base = BaseCredentials::new(SharedCredentialsProvider::new(keys), SystemClock);
        let destination = Destination::default();
        let call = client(&shared, Handle(base), CALL).assume_role().role_arn("r").role_session_name("s");
        assert!(call.customize().interceptor(destination.clone()).send().await.is_err());
        assert_eq!(*destination.0.lock().unwrap(), format!("https://{host}/"));
    }
}

#[test]
fn identities() {
    let role = parse_identity("arn:aws:sts::111122223333:assumed-role/node-role/i-0abc").unwrap();
    assert_eq!(role.role.unwrap().as_str(), "arn:aws:iam::111122223333:role/node-role");
    let user = parse_identity("arn:aws-cn:iam::111122223333:user/ops").unwrap();
    assert_eq!((user.partition.as_ref(), user.account.as_ref(), user.role), ("aws-cn", "111122223333", None));
    assert_eq!(parse_identity("nonsense"), None);
}
