//! The web process: opens everything, serves connections, keeps the outbox and the usage index moving, drains.
//!
//! Apart from the router, which knows no sockets. hyper is used at connection level, so that a drain can let each connection finish
//! its request and no more.

use crate::app::App;
use crate::config::Config;
use crate::error::Error;
use crate::web::{self, Peer};
use crate::{metrics, usage, worker};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use ibex_kit::{Check, Failure, Kit, Step, Worker};
use std::convert::Infallible;
use std::time::Duration;
use tower::ServiceExt as _;

/// How long a browser may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the global database is asked whether it is there.
const STORE_CHECK: Duration = Duration::from_secs(1);
/// And how long it may take to say so.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// Everything a daemon of this crate opens.
///
/// # Errors
/// Databases or addresses, worded for an operator.
pub(crate) async fn open(config: Config) -> Result<App, Failure> {
    App::open(config).await.map_err(|error| match error {
        Error::Invalid(text) => Failure::config(text),
        Error::Cluster(ibex_cluster::Error::Sql(error)) if error.is_connection_lost() => {
            Failure::temporary(format!("global database: {error}"))
        }
        error @ (Error::NotFound
        | Error::LoginNeeded
        | Error::Refused(_)
        | Error::TooMany
        | Error::Cluster(_)
        | Error::Files(_)
        | Error::Jobs(_)
        | Error::Bug(_)) => Failure::io(error.to_string()),
    })
}

/// The web site until it is told to stop.
///
/// # Errors
/// What keeps it from starting.
pub async fn serve(config: Config, kit: Kit) -> Result<(), Failure> {
    let bound = kit.bind("journal", &config.listen)?;
    let in_serve = config.worker.in_serve;
    let app = open(config).await?;
    for (cluster, error) in app.cluster.open_all().await {
        tracing::warn!(%cluster, %error, "cluster is away at the start, will be tried when needed");
    }
    metrics::register(&app, &kit);
    kit.worker(Keeper {
        app: app.clone(),
        swept: 0,
    });
    kit.spawn_background("store check", watch_store(app.clone(), kit.check("store")));
    if in_serve {
        worker::spawn(&app, &kit)?;
    }
    let requests = metrics::Requests::register(&kit);
    let router = web::router(app.clone()).layer(axum::middleware::from_fn_with_state(
        requests,
        metrics::count,
    ));
    let serving = kit.clone();
    bound.serve(
        |config: &Config| config.listen.clone(),
        move |arrival| {
            let peer = Peer(arrival.peer.ip());
            connection(arrival.stream, peer, router.clone(), serving.clone())
        },
    );
    kit.ready().await?;
    kit.draining().cancelled().await;
    if let Err(error) = usage::flush(&app).await {
        tracing::warn!(%error, "update times not written at the stop; rebuild-usage makes them anew");
    }
    if let Err(error) = app.sweep().await {
        tracing::debug!(%error, "outbox not swept at the stop");
    }
    Ok(())
}

/// Tells `/readyz` whether the global database answers. A cluster that is away costs its own users only, and is no reason to leave.
pub(crate) async fn watch_store(app: App, check: Check) {
    loop {
        match app.cluster.global().ping(STORE_PATIENCE).await {
            Ok(()) => check.ok(),
            Err(error) => check.failed(error.to_string()),
        }
        tokio::time::sleep(STORE_CHECK).await;
    }
}

async fn connection(stream: ibex_kit::Stream, peer: Peer, router: Router, kit: Kit) {
    let draining = kit.draining();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (router, kit) = (router.clone(), kit.clone());
        async move { Ok::<_, Infallible>(answer(request, peer, router, kit).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        () = draining.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}

/// One request. `OPTIONS` is the balancer's question whether anybody is free; it is answered before anything else.
async fn answer(
    request: Request<hyper::body::Incoming>,
    peer: Peer,
    router: Router,
    kit: Kit,
) -> Response<Body> {
    let _busy = kit.busy();
    if request.method() == Method::OPTIONS {
        return Response::new(Body::empty());
    }
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(peer);
    let request = Request::from_parts(parts, Body::new(body));
    router
        .oneshot(request)
        .await
        .unwrap_or_else(|never| match never {})
}

/// Background work of every process: the outbox and the usage index, each second.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) app: App,
    pub(crate) swept: u64,
}

impl Worker for Keeper {
    fn name(&self) -> String {
        "outbox".to_owned()
    }

    fn status(&self) -> ibex_kit::WorkerStatus {
        ibex_kit::WorkerStatus {
            done: self.swept,
            total: None,
            note: "effects of commits, update times".to_owned(),
        }
    }

    async fn step(&mut self) -> Result<Step, anyhow::Error> {
        usage::flush(&self.app).await?;
        self.swept += self.app.sweep().await? as u64;
        Ok(Step::Idle {
            wait: Duration::from_secs(1),
        })
    }
}
