//! Starts the control plane: etcd, then kube-apiserver, then creates the role of the `podrole` user.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::json;

use super::assets::Assets;
use super::client::{Body, Session};
use super::process::Child;
use super::scratch::{self, Scratch};
use super::{Cluster, Runtime, User, controllers};

/// The startup timeout of each of the two processes. An idle machine needs seconds; a cold and busy one needs longer.
const STARTUP: Duration = Duration::from_secs(60);
/// How often a starting process is polled.
const POLL: Duration = Duration::from_millis(50);

/// Options of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The address on which kube-apiserver listens and which it advertises. It must exist in this network namespace and
    /// must not be the unspecified address.
    pub bind: IpAddr,
    /// The binaries.
    pub assets: Assets,
}

impl ClusterOptions {
    /// Binaries found by [`Assets::find`]; listens on 127.0.0.1.
    pub fn loopback() -> Result<Self> {
        Ok(Self { bind: Ipv4Addr::LOCALHOST.into(), assets: Assets::find()? })
    }
}

/// The result of starting the processes, before any user connects.
struct Started {
    apiserver: Child,
    etcd: Child,
    admin: Session,
    podrole: Session,
}

/// `node` names the only node of a cluster with controllers, whose pods really run.
pub(super) fn start(options: ClusterOptions, node: Option<&str>) -> Result<Cluster> {
    if options.bind.is_unspecified() {
        bail!("the API server needs an address that it can advertise, not {}", options.bind);
    }
    let scratch = Scratch::new()?;
    let runtime = Runtime::new()?;
    let ports = free_ports(options.bind)?;
    let address = SocketAddr::new(options.bind, ports.apiserver);
    let mut plan = Plan::new(&options, &scratch, &ports)?;
    let identities = match node {
        Some(node) => Some(controllers::admit(node, &scratch, &mut plan.apiserver_arguments)?),
        None => None,
    };
    let Started { apiserver, etcd, admin, podrole } = runtime.run(plan.run())?;
    let mut cluster =
        Cluster { controllers: Vec::new(), identities, apiserver, etcd, admin, podrole, address, scratch, runtime };
    cluster.grant(
        "podrole",
        json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["namespaces", "serviceaccounts"], "verbs": ["list", "watch"]},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        ]),
    )?;
    cluster.await_default_namespace(STARTUP)?;
    if cluster.identities.is_some() {
        cluster.controllers = controllers::start(&cluster, &options.assets)?;
    }
    Ok(cluster)
}

/// Ports on which nothing listens at this moment.
struct Ports {
    apiserver: u16,
    etcd: u16,
    etcd_peers: u16,
}

/// Lets the kernel choose free ports. All sockets stay open until the last port is chosen, so that the ports differ.
/// Then they are closed, because the children cannot take over a socket.
fn free_ports(bind: IpAddr) -> Result<Ports> {
    let hold = |address: IpAddr| -> Result<(TcpListener, u16)> {
        let listener = TcpListener::bind((address, 0))
            .with_context(|| format!("{address} cannot be bound in this network namespace (is the interface up?)"))?;
        let port = listener.local_addr().context("reading the port")?.port();
        Ok((listener, port))
    };
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let (_apiserver, apiserver) = hold(bind)?;
    let (_etcd, etcd) = hold(loopback)?;
    let (_peers, etcd_peers) = hold(loopback)?;
    Ok(Ports { apiserver, etcd, etcd_peers })
}

/// Everything that the cluster's thread needs to start the children.
struct Plan {
    assets: Assets,
    address: SocketAddr,
    etcd_port: u16,
    etcd_arguments: Vec<String>,
    apiserver_arguments: Vec<String>,
    etcd_log: PathBuf,
    apiserver_log: PathBuf,
    certificate: PathBuf,
    admin_token: String,
    podrole_token: String,
}

impl Plan {
    /// Writes the files that the children read, and builds their arguments.
    fn new(options: &ClusterOptions, scratch: &Scratch, ports: &Ports) -> Result<Self> {
        let address = SocketAddr::new(options.bind, ports.apiserver);
        let (admin_token, podrole_token) = (scratch::random_token()?, scratch::random_token()?);
        let tokens = scratch.join("tokens.csv");
        let users = format!(
            "{admin_token},{},admin,\"system:masters\"\n{podrole_token},{},podrole\n",
            User::Admin.name(),
            User::Podrole.name()
        );
        scratch::write_private(&tokens, users.as_bytes())?;
        let key = scratch.join("service-accounts.pem");
        scratch::write_private(&key, scratch::rsa_key_pem()?.as_bytes())?;

        let certificates = scratch.join("certificates");
        let etcd_url = format!("http://127.0.0.1:{}", ports.etcd);
        let peer_url = format!("http://127.0.0.1:{}", ports.etcd_peers);
        let services = match options.bind {
            IpAddr::V4(_) => "10.96.0.0/16",
            IpAddr::V6(_) => "fd00:10:96::/108",
        };
        let etcd_arguments = vec![
            format!("--data-dir={}", scratch.join("etcd").display()),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=default={peer_url}"),
            // Nothing outlives the test, so nothing needs to reach the disk.
            "--unsafe-no-fsync".to_owned(),
            // etcd holds an election before it serves; shorten the time that it waits for other members.
            "--heartbeat-interval=10".to_owned(),
            "--election-timeout=100".to_owned(),
        ];
        let apiserver_arguments = vec![
            format!("--etcd-servers={etcd_url}"),
            format!("--bind-address={}", options.bind),
            format!("--secure-port={}", ports.apiserver),
            // Without a default route, kube-apiserver cannot choose the address.
            format!("--advertise-address={}", options.bind),
            // Otherwise it endlessly tries to give the `kubernetes` service loopback endpoints, which validation
            // rejects.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", certificates.display()),
            format!("--token-auth-file={}", tokens.display()),
            "--authorization-mode=RBAC".to_owned(),
            format!("--service-cluster-ip-range={services}"),
            format!("--service-account-issuer=https://{address}"),
            format!("--service-account-key-file={}", key.display()),
            format!("--service-account-signing-key-file={}", key.display()),
            // This plugin would mount a token volume into every pod and wait for a controller that does not run here.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        Ok(Self {
            assets: options.assets.clone(),
            address,
            etcd_port: ports.etcd,
            etcd_arguments,
            apiserver_arguments,
            etcd_log: scratch.join("etcd.log"),
            apiserver_log: scratch.join("kube-apiserver.log"),
            certificate: certificates.join("apiserver.crt"),
            admin_token,
            podrole_token,
        })
    }

    /// Starts both children. Must run on the cluster's thread, because they die with the thread that started them.
    async fn run(self) -> Result<Started> {
        let mut etcd = Child::spawn("etcd", &self.assets.etcd, &self.etcd_arguments, self.etcd_log)?;
        let deadline = Instant::now() + STARTUP;
        let client = (Ipv4Addr::LOCALHOST, self.etcd_port);
        while tokio::net::TcpStream::connect(client).await.is_err() {
            pause(&mut [&mut etcd], deadline, "etcd does not listen").await?;
        }

        let mut apiserver =
            Child::spawn("kube-apiserver", &self.assets.apiserver, &self.apiserver_arguments, self.apiserver_log)?;
        let deadline = Instant::now() + STARTUP;
        // kube-apiserver writes its certificate before it listens: once the port answers, the file is complete.
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            pause(&mut [&mut apiserver, &mut etcd], deadline, "kube-apiserver does not listen").await?;
        }
        let ca_pem =
            fs::read_to_string(&self.certificate).with_context(|| format!("reading {}", self.certificate.display()))?;
        let admin = Session::new(self.address, User::Admin, ca_pem.clone(), self.admin_token).await?;
        let podrole = Session::new(self.address, User::Podrole, ca_pem, self.podrole_token).await?;
        while let Err(error) = admin.send(Method::GET, "/readyz", Body::None).await {
            pause(&mut [&mut apiserver, &mut etcd], deadline, "kube-apiserver is not ready")
                .await
                .with_context(|| format!("/readyz: {error:#}"))?;
        }
        Ok(Started { apiserver, etcd, admin, podrole })
    }
}

/// Waits for one poll interval. Fails, with the children's logs, if a child has ended or the deadline has passed.
async fn pause(children: &mut [&mut Child], deadline: Instant, complaint: &str) -> Result<()> {
    for child in children.iter_mut() {
        child.check()?;
    }
    if Instant::now() >= deadline {
        let logs: Vec<String> = children.iter().map(|child| child.tail()).collect();
        bail!("{complaint} after {STARTUP:?}\n{}", logs.join("\n"));
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}
