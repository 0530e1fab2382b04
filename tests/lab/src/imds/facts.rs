//! The facts that the metadata service publishes about the node.

use jiff::{SignedDuration, Timestamp};

/// Facts about the node. The default is an EC2 instance in Oregon.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `placement/region`
    pub region: String,
    /// `placement/availability-zone`
    pub zone: String,
    /// `placement/availability-zone-id`
    pub zone_id: String,
    /// The node's account.
    pub account: String,
    /// `services/partition`
    pub partition: String,
    /// `services/domain`
    pub domain: String,
    /// `instance-type`
    pub instance_type: String,
    /// `instance-id`
    pub instance_id: String,
    /// The node's role; `None` for an instance without one.
    pub role: Option<String>,
    /// `user-data`, which contains a secret, as that of many nodes does.
    pub user_data: String,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            region: "us-west-2".into(),
            zone: "us-west-2b".into(),
            zone_id: "usw2-az2".into(),
            account: "111122223333".into(),
            partition: "aws".into(),
            domain: "amazonaws.com".into(),
            instance_type: "m5.large".into(),
            instance_id: "i-0a1b2c3d4e5f60718".into(),
            role: Some("node-role".into()),
            user_data: "#!/bin/sh\nBOOTSTRAP_TOKEN=planted-secret-of-the-node\n".into(),
        }
    }
}

/// The credentials of the node's role. They are easy to recognize in any output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCredentials {
    /// `AccessKeyId`
    pub access_key_id: String,
    /// `SecretAccessKey`
    pub secret_access_key: String,
    /// `Token`
    pub token: String,
}

impl Default for NodeCredentials {
    fn default() -> Self {
        Self {
            access_key_id: "ASIANODEROLEOFTHELAB".into(),
            secret_access_key: "secretOfTheNodeRoleThatNoPodMayEverSee00".into(),
            token: "tokenOfTheNodeRoleThatNoPodMayEverSee".into(),
        }
    }
}

impl NodeCredentials {
    /// Whether any of the three is contained in `text`.
    pub fn are_in(&self, text: &str) -> bool {
        [&self.access_key_id, &self.secret_access_key, &self.token]
            .into_iter()
            .any(|secret| text.contains(secret.as_str()))
    }

    /// Renders EC2's own layout: spaces before the colons, no newline at the end.
    pub(super) fn render(&self, since: Timestamp) -> String {
        // EC2's credentials are valid for six hours.
        let until = since + SignedDuration::from_hours(6);
        format!(
            r#"{{
  "Code" : "Success",
  "LastUpdated" : "{}",
  "Type" : "AWS-HMAC",
  "AccessKeyId" : "{}",
  "SecretAccessKey" : "{}",
  "Token" : "{}",
  "Expiration" : "{}"
}}"#,
            date(since),
            self.access_key_id,
            self.secret_access_key,
            self.token,
            date(until)
        )
    }
}

impl Facts {
    /// The response body for a path below `/latest`, or `None` for 404.
    pub(super) fn body(&self, path: &str, credentials: &NodeCredentials, since: Timestamp) -> Option<String> {
        if let Some(path) = path.strip_prefix("/meta-data/iam") {
            return self.iam(path, credentials, since);
        }
        // Apart from the slash of a listing, EC2 accepts paths with and without a final slash.
        let text = match path.strip_suffix('/').unwrap_or(path) {
            "" => "dynamic\nmeta-data\nuser-data",
            "/meta-data" => LISTING,
            "/meta-data/instance-id" => &self.instance_id,
            "/meta-data/instance-type" => &self.instance_type,
            "/meta-data/placement" => "availability-zone\navailability-zone-id\nregion",
            "/meta-data/placement/region" => &self.region,
            "/meta-data/placement/availability-zone" => &self.zone,
            "/meta-data/placement/availability-zone-id" => &self.zone_id,
            "/meta-data/services" => "domain\npartition",
            "/meta-data/services/domain" => &self.domain,
            "/meta-data/services/partition" => &self.partition,
            "/dynamic/instance-identity" => "document\npkcs7\nrsa2048\nsignature",
            "/dynamic/instance-identity/document" => return Some(self.document(since)),
            "/dynamic/instance-identity/signature" => "signature-of-the-node",
            // Every instance has these credentials, with or without a role.
            "/meta-data/identity-credentials/ec2/security-credentials/ec2-instance" => {
                return Some(credentials.render(since));
            }
            "/user-data" => &self.user_data,
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn iam(&self, path: &str, credentials: &NodeCredentials, since: Timestamp) -> Option<String> {
        let role = self.role.as_deref()?;
        match path {
            "" | "/" => Some("info\nsecurity-credentials/".to_owned()),
            "/info" => Some(format!(
                r#"{{
  "Code" : "Success",
  "LastUpdated" : "{}",
  "InstanceProfileArn" : "arn:{}:iam::{}:instance-profile/{role}",
  "InstanceProfileId" : "AIPANODEROLEOFTHELAB"
}}"#,
                date(since),
                self.partition,
                self.account
            )),
            "/security-credentials" | "/security-credentials/" => Some(role.to_owned()),
            _ => (path.strip_prefix("/security-credentials/")? == role).then(|| credentials.render(since)),
        }
    }

    fn document(&self, since: Timestamp) -> String {
        format!(
            r#"{{
  "accountId" : "{}",
  "architecture" : "x86_64",
  "availabilityZone" : "{}",
  "billingProducts" : null,
  "imageId" : "ami-0a1b2c3d4e5f60718",
  "instanceId" : "{}",
  "instanceType" : "{}",
  "pendingTime" : "{}",
  "privateIp" : "{}",
  "region" : "{}",
  "version" : "2017-09-30"
}}"#,
            self.account,
            self.zone,
            self.instance_id,
            self.instance_type,
            date(since),
            crate::node::NODE_V4,
            self.region
        )
    }
}

const LISTING: &str = "iam/\nidentity-credentials/\ninstance-id\ninstance-type\nplacement/\nservices/";

/// UTC to the second, the only format that every SDK parses.
fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_live_six_hours_in_ec2s_layout() {
        let text = NodeCredentials::default().render(Timestamp::UNIX_EPOCH);
        assert!(
            text.starts_with("{\n  \"Code\" : \"Success\",\n  \"LastUpdated\" : \"1970-01-01T00:00:00Z\",\n"),
            "{text}"
        );
        assert!(text.ends_with("\"Expiration\" : \"1970-01-01T06:00:00Z\"\n}"), "{text}");
    }

    #[test]
    fn an_instance_without_a_role_has_no_iam() {
        let (facts, keys) = (Facts::default(), NodeCredentials::default());
        let body = |facts: &Facts, path| facts.body(path, &keys, Timestamp::UNIX_EPOCH);
        assert_eq!(body(&facts, "/meta-data/iam/security-credentials/").as_deref(), Some("node-role"));
        assert_eq!(body(&facts, "/meta-data/iam/security-credentials/other"), None);
        let without = Facts { role: None, ..facts };
        assert_eq!(body(&without, "/meta-data/iam/security-credentials/"), None);
    }
}
