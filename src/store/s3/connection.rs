//! What all requests to a service share: the client, the number under way, the retries, the counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedHttpClient;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::store::address::S3Address;
use crate::store::s3::bandwidth::Bandwidth;
use crate::store::s3::client::{connect, http_client};
use crate::store::s3::counts::{Counters, RequestKind};
use crate::store::s3::fault::{Fault, FaultKind};
use crate::store::s3::limiter::Limiter;
use crate::store::s3::options::S3Options;
use crate::store::s3::retry::{Attempts, RetryBudget, jitter};

/// A service, and how it is talked to.
pub struct Connection {
    pub address: S3Address,
    pub options: S3Options,
    pub counters: Arc<Counters>,
    pub upload: Option<Arc<Bandwidth>>,
    pub download: Option<Arc<Bandwidth>>,
    http: SharedHttpClient,
    /// Replaced as a whole when credentials have expired; the number counts that.
    client: RwLock<(u64, Client)>,
    renewal: Mutex<()>,
    limiter: Limiter,
    budget: RetryBudget,
    is_answered: AtomicBool,
}

impl Connection {
    /// Finds the credentials' providers; nothing is sent to the service yet.
    pub async fn new(address: S3Address, options: S3Options) -> Self {
        let http = http_client();
        let client = connect(&address, &options, &http).await;
        let limit = |limit: Option<u64>| limit.map(|bytes| Arc::new(Bandwidth::new(bytes)));
        Self {
            upload: limit(options.limit_upload),
            download: limit(options.limit_download),
            budget: RetryBudget::new(options.patience.retry_budget),
            counters: Arc::default(),
            client: RwLock::new((0, client)),
            renewal: Mutex::new(()),
            limiter: Limiter::default(),
            is_answered: AtomicBool::new(false),
            http,
            address,
            options,
        }
    }

    /// Asks until there is an answer that stands, or patience is at its end. `attempt` is told how
    /// many were made before; it must not run another operation, which would wait for a second slot
    /// while it holds one.
    pub async fn run<T>(
        &self,
        kind: RequestKind,
        mut attempt: impl AsyncFnMut(Client, u32) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let begun = Instant::now();
        let mut attempts = Attempts::new(&self.options.patience);
        let mut is_renewed = false;
        loop {
            let slot = self.limiter.slot().await;
            let (generation, client) = self.client();
            self.counters.request(kind);
            let answer = attempt(client, attempts.made).await;
            attempts.made += 1;
            let fault = match answer {
                Ok(value) => {
                    self.is_answered.store(true, Ordering::Relaxed);
                    self.budget.give_back();
                    slot.succeeded();
                    return Ok(value);
                }
                Err(fault) => fault,
            };
            if fault.kind == FaultKind::Slow {
                slot.slowed();
            }
            drop(slot);
            let is_answered = if fault.kind == FaultKind::NoAnswer {
                self.is_answered.load(Ordering::Relaxed)
            } else {
                self.is_answered.store(true, Ordering::Relaxed);
                true
            };
            if !is_renewed && self.renew(fault.kind, generation).await {
                is_renewed = true;
                continue;
            }
            let wait = attempts.wait(&fault, begun.elapsed(), jitter(), is_answered);
            let Some(wait) = wait else { return Err(fault.after(attempts.made)) };
            if !self.budget.take() {
                return Err(fault.after(attempts.made));
            }
            tracing::debug!(?kind, ?wait, %fault, "trying again");
            sleep(wait).await;
            self.counters.retry();
        }
    }

    /// Waits for `request` as long as a body of `body_bytes` may take, and the answer to it.
    pub async fn within<T>(
        &self,
        body_bytes: u64,
        request: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let patience = &self.options.patience;
        let limit = self.upload.as_ref().map_or(u64::MAX, |limit| limit.bytes_per_second() / 16);
        let slowest = patience.slowest_bytes_per_second.min(limit).max(1);
        let time = patience.answer + Duration::from_secs_f64(body_bytes as f64 / slowest as f64);
        timeout(time, request).await.unwrap_or_else(|_| {
            Err(Fault::new(FaultKind::NoAnswer, format!("there was no answer within {time:?}")))
        })
    }

    fn client(&self) -> (u64, Client) {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After expired credentials: asks their providers again. Says whether the request is worth
    /// another attempt.
    async fn renew(&self, kind: FaultKind, generation: u64) -> bool {
        if kind != FaultKind::Expired {
            return false;
        }
        let _one = self.renewal.lock().await;
        if self.client().0 != generation {
            return true; // another request has done it meanwhile
        }
        let client = connect(&self.address, &self.options, &self.http).await;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = (generation + 1, client);
        true
    }
}
