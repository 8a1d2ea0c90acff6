//! TLS, which is all that production speaks, and the proxy in its way.
//!
//! [`Front`] ends TLS before a fake CloudWatch, [`Proxy`] stands before that. `certificates/make.sh` says what the
//! certificates are.

use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use fake_cloudwatch::FakeCloudWatch;
use fake_imds::FakeImds;
use gpushare::publish::fate::Class;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use super::scene::{
    assert_nothing_lost, everything_waits, node, node_with_role, status_text, stopped, wait_failure,
    wait_well,
};
use crate::harness::{Node, PATIENCE};
use crate::life::scene::assert_adds_up;

/// CloudWatch's own name in the region of these nodes.
const CLOUDWATCH: &str = "monitoring.eu-west-1.amazonaws.com";

#[test]
fn tls_with_an_authority_that_the_node_trusts_carries_everything() {
    let fake = FakeCloudWatch::start().unwrap();
    let front = Front::before(&fake, "server.pem");
    let node = front.node(&fake, "authority.pem");
    let agent = node.start();
    let well = wait_well(&agent, 3);
    assert_adds_up(&well);
    assert!(well.publish.done.last_error.is_none(), "{:?}", well.publish.done);
    stopped(agent);
    assert_nothing_lost(&fake, &well);
    assert_eq!(front.refused(), 0);
    let requests = fake.attempts().len();
    assert!(
        front.accepted() < requests,
        "{} connections for {requests} requests: they are kept",
        front.accepted()
    );
}

#[test]
fn tls_with_an_authority_that_nobody_trusts_is_named_and_nothing_is_sent() {
    let fake = FakeCloudWatch::start().unwrap();
    let front = Front::before(&fake, "server.pem");
    let node = front.node(&fake, "stranger.pem");
    let agent = node.start();
    wait_failure(&agent, Class::Unreachable);
    assert_says(
        &node,
        &["(unreachable, ", "invalid peer certificate: UnknownIssuer"],
    );
    let waiting = agent.wait("two windows wait", everything_waits);
    assert_adds_up(&waiting);
    assert_eq!(waiting.sampler.ledger.dropped_total(), 0);
    assert!(front.refused() > 0 && front.accepted() == 0);
    assert!(fake.attempts().is_empty(), "{:?}", fake.attempts());
}

#[test]
fn tls_on_a_node_without_any_authority_is_named_with_the_package_that_brings_them() {
    let fake = FakeCloudWatch::start().unwrap();
    let front = Front::before(&fake, "server.pem");
    let node = front
        .node(&fake, "authority.pem")
        .with_env("SSL_CERT_FILE", "/dev/null");
    let agent = node.start();
    wait_failure(&agent, Class::Unreachable);
    assert_says(
        &node,
        &["(unreachable, ", "invalid peer certificate", "ca-certificates"],
    );
    agent.wait("two windows wait", everything_waits);
    assert!(fake.attempts().is_empty(), "{:?}", fake.attempts());
}

#[test]
fn tls_with_a_certificate_that_has_expired_is_named_and_works_once_it_is_renewed() {
    let fake = FakeCloudWatch::start().unwrap();
    let front = Front::before(&fake, "expired.pem");
    let node = front.node(&fake, "authority.pem");
    let agent = node.start();
    let failed = wait_failure(&agent, Class::Unreachable);
    assert_says(
        &node,
        &["(unreachable, ", "invalid peer certificate: ", "expired"],
    );
    let waiting = agent.wait("two windows wait", everything_waits);
    assert!(fake.attempts().is_empty(), "{:?}", fake.attempts());
    front.present("server.pem");
    let well = wait_well(&agent, waiting.publish.pending_windows as u64);
    stopped(agent);
    for status in [&failed, &waiting, &well] {
        assert_adds_up(status);
        assert_nothing_lost(&fake, status);
    }
}

#[test]
fn a_proxy_is_asked_for_cloudwatch_by_name_and_never_for_the_metadata_service() {
    let (fake, imds) = (FakeCloudWatch::start().unwrap(), FakeImds::start().unwrap());
    let front = Front::before(&fake, "server.pem");
    let proxy = Proxy::before(&front);
    // No endpoint_url: the endpoint is the region's own, which only the proxy can find here.
    let node = trusting(node_with_role(&fake, &imds), "authority.pem")
        .without("publish.endpoint_url")
        .with_env("HTTPS_PROXY", &proxy.url())
        .with_env("HTTP_PROXY", &proxy.url())
        .with_env("http_proxy", &proxy.url());
    let agent = node.start();
    assert!(
        fake.wait_for(PATIENCE, |_, attempts| attempts.len() >= 2),
        "asked of the proxy: {:?}\n{}",
        proxy.asked(),
        agent.log()
    );
    let well = wait_well(&agent, 2);
    stopped(agent);
    assert_nothing_lost(&fake, &well);
    for asked in proxy.asked() {
        assert_eq!(asked, format!("CONNECT {CLOUDWATCH}:443 HTTP/1.1"));
    }
    let keys: Vec<_> = fake.attempts().into_iter().map(|one| one.credential).collect();
    assert!(keys.iter().all(Option::is_some), "{keys:?}");
    let roles = imds.requests();
    let is_of_role = |path: &str| path.contains("/iam/security-credentials/");
    assert!(roles.iter().any(|request| is_of_role(&request.path)), "{roles:?}");
}

/// Asserts that the status says this, and sends the operator to the certificates.
#[track_caller]
fn assert_says(node: &Node, words: &[&str]) {
    let text = status_text(node);
    for said in words.iter().chain(&["the node's clock", "SSL_CERT_FILE"]) {
        assert!(text.contains(said), "not said: {said}\n{text}");
    }
}

/// A node that trusts this authority and no other.
fn trusting(node: Node, authority: &str) -> Node {
    node.with_env("SSL_CERT_FILE", certificate(authority).to_str().unwrap())
        .with_env("SSL_CERT_DIR", "")
}

fn certificate(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/it/publish/certificates").join(name)
}

/// Ends TLS before a fake CloudWatch, and passes on what is in it.
struct Front {
    listener: Listener,
    server: Arc<Server>,
}

struct Server {
    config: Mutex<Arc<ServerConfig>>,
    accepted: AtomicUsize,
    refused: AtomicUsize,
}

impl Front {
    fn before(fake: &FakeCloudWatch, certificate: &str) -> Self {
        let server = Arc::new(Server {
            config: Mutex::new(server_config(certificate)),
            accepted: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        });
        let behind = fake.url().trim_start_matches("http://").parse().unwrap();
        let serving = Arc::clone(&server);
        let listener = Listener::start(move |client| serve(client, behind, Arc::clone(&serving)));
        Self { listener, server }
    }

    /// Shows another certificate to whoever connects from now on.
    fn present(&self, certificate: &str) {
        *self.server.config.lock().unwrap() = server_config(certificate);
    }

    /// A node that publishes to this front and trusts one authority.
    fn node(&self, fake: &FakeCloudWatch, authority: &str) -> Node {
        let url = format!("\"https://{}\"", self.listener.address);
        trusting(node(fake), authority).with("publish.endpoint_url", &url)
    }

    /// Connections whose handshake was completed.
    fn accepted(&self) -> usize {
        self.server.accepted.load(Ordering::Relaxed)
    }

    /// Connections whose handshake the agent broke off.
    fn refused(&self) -> usize {
        self.server.refused.load(Ordering::Relaxed)
    }
}

fn server_config(name: &str) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(certificate(name)).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    Arc::new(config.unwrap())
}

async fn serve(client: TcpStream, behind: SocketAddr, server: Arc<Server>) {
    let config = Arc::clone(&server.config.lock().unwrap());
    let Ok(mut client) = TlsAcceptor::from(config).accept(client).await else {
        server.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    server.accepted.fetch_add(1, Ordering::Relaxed);
    let mut fake = TcpStream::connect(behind).await.unwrap();
    // Either side may go away without a farewell.
    let _ = copy_bidirectional(&mut client, &mut fake).await;
}

/// A proxy that leads every tunnel to a [`Front`], whatever name it was asked for.
struct Proxy {
    listener: Listener,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn before(front: &Front) -> Self {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (behind, lines) = (front.listener.address, Arc::clone(&asked));
        let listener = Listener::start(move |client| tunnel(client, behind, Arc::clone(&lines)));
        Self { listener, asked }
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.address)
    }

    /// The first line of every request.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn tunnel(mut client: TcpStream, behind: SocketAddr, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap().to_owned();
    let is_tunnel = line.starts_with("CONNECT ");
    asked.lock().unwrap().push(line);
    if !is_tunnel {
        let refusal = b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n";
        let _ = client.write_all(refusal).await;
        return;
    }
    let mut front = TcpStream::connect(behind).await.unwrap();
    if client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut front).await;
    }
}

/// Takes connections until it is dropped, which cuts those that are open.
struct Listener {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_io().build().unwrap();
            runtime.block_on(stopped.run_until_cancelled(async {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(client));
                }
            }));
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
