//! Checks the gRPC health service, without TLS.

use std::net::IpAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::Code;
use tonic::transport::{Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::cri::error::code_name;

use super::{CheckResult, go_duration, host_port, tcp};

/// The wait before a refused connection is tried again.
const DIAL_AGAIN: Duration = Duration::from_millis(200);

/// Queries the health service at `ip:port` about `service`. Every error is the container's failure.
pub(super) async fn check(ip: IpAddr, port: u16, service: &str, timeout: Duration) -> CheckResult {
    let host = ip.to_string();
    let address = host_port(&host, port);
    let limit = go_duration(timeout);
    let mut connected = false;

    let attempt = ask(&host, port, &address, service, &mut connected);
    match tokio::time::timeout(timeout, attempt).await {
        Ok(Ok(())) => CheckResult::Success,
        Ok(Err(error)) => CheckResult::Failure(error.to_string()),
        Err(_) if connected => {
            CheckResult::Failure(format!("timeout: health rpc did not complete within {limit}"))
        }
        Err(_) => CheckResult::Failure(format!(
            "timeout: failed to connect service {address:?} within {limit}: context deadline exceeded"
        )),
    }
}

/// Why a service is not healthy. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum AskError {
    /// There is no connection.
    #[error("error: failed to connect service at {address:?}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The server has no health service.
    #[error(
        "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
        .0.message()
    )]
    Unimplemented(#[source] Box<tonic::Status>),
    /// The call failed.
    #[error(
        "error: health rpc probe failed: rpc error: code = {} desc = {}",
        code_name(.0.code()),
        .0.message()
    )]
    Failed(#[source] Box<tonic::Status>),
    /// The service says that it is not.
    #[error("service unhealthy (responded with {:?})", .0.as_str_name())]
    Unhealthy(ServingStatus),
}

async fn ask(
    host: &str,
    port: u16,
    address: &str,
    service: &str,
    connected: &mut bool,
) -> Result<(), AskError> {
    let refused = |source| AskError::Connect { address: address.to_owned(), source };
    // A blocking dial of grpc-go tries a refused connection again until the time is over.
    let stream = loop {
        match tcp::dial(host, port).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(DIAL_AGAIN).await,
        }
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|endpoint| endpoint.user_agent("kube-probe/1.36"))
        .map_err(refused)?;

    // The connector is called once: the channel lives for one call.
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        std::future::ready(
            stream.take().ok_or_else(|| std::io::Error::other("the connection was lost")),
        )
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(refused)?;
    *connected = true;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(|status| {
        if status.code() == Code::Unimplemented {
            AskError::Unimplemented(Box::new(status))
        } else {
            AskError::Failed(Box::new(status))
        }
    })?;
    let status = answer.into_inner().status();
    if status == ServingStatus::Serving {
        return Ok(());
    }

    Err(AskError::Unhealthy(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::JoinSet;

    async fn ask_about(service: &str) -> CheckResult {
        let (reporter, server) = tonic_health::server::health_reporter();
        reporter.set_service_status("up", tonic_health::ServingStatus::Serving).await;
        reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(server)
                .serve_with_incoming(incoming)
                .await
        });
        check(address.ip(), address.port(), service, Duration::from_secs(10)).await
    }

    #[tokio::test]
    async fn asks_the_health_service() {
        assert_eq!(ask_about("up").await, CheckResult::Success);
        assert_eq!(
            ask_about("down").await,
            CheckResult::Failure("service unhealthy (responded with \"NOT_SERVING\")".into())
        );
        let CheckResult::Failure(problem) = ask_about("nope").await else { panic!("it must fail") };
        assert!(
            problem
                .starts_with("error: health rpc probe failed: rpc error: code = NotFound desc = "),
            "{problem}"
        );
    }

    #[tokio::test]
    async fn says_that_nobody_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let result = check(address.ip(), address.port(), "", Duration::from_millis(300)).await;
        let expected = format!(
            "timeout: failed to connect service \"{address}\" within 300ms: context deadline exceeded"
        );
        assert_eq!(result, CheckResult::Failure(expected));
    }
}
