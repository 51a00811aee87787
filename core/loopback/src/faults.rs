//! Failures on demand, and the count of requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};

/// How a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// 503 `SlowDown`.
    SlowDown,
    /// 500 `InternalError`.
    InternalError,
    /// 403 `AccessDenied`.
    AccessDenied,
    /// 403 `RequestTimeTooSkewed`.
    RequestTimeTooSkewed,
    /// 501 `NotImplemented`.
    NotImplemented,
}

/// What goes wrong from now on.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) latency: Duration,
    pub(super) refuse: Option<(Refusal, Option<String>, Option<u64>)>,
    pub(super) cut: Option<(u64, u64)>,
    pub(super) lose: Option<(String, u64)>,
    pub(super) ignore_conditions: bool,
    pub(super) keep_keys: u64,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    plan: Mutex<Plan>,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Faults {
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn wait(&self) {
        let latency = self.change(|plan| plan.latency);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    /// Whether the answer to a request of this operation is lost.
    pub(super) fn loses_answer(&self, operation: &str) -> bool {
        self.change(|plan| match &mut plan.lose {
            Some((only, times)) if only == operation && *times > 0 => {
                *times -= 1;
                true
            }
            _ => false,
        })
    }

    /// Where the body of this length is cut.
    pub(super) fn cuts(&self, len: u64) -> Option<u64> {
        self.change(|plan| match &mut plan.cut {
            Some((after, times)) if *times > 0 && len > *after => {
                *times -= 1;
                Some(*after)
            }
            _ => None,
        })
    }

    /// Whether the deletion of a key in a batch fails.
    pub(super) fn keeps_key(&self) -> bool {
        self.change(|plan| {
            let keeps = plan.keep_keys > 0;
            plan.keep_keys = plan.keep_keys.saturating_sub(1);
            keeps
        })
    }

    fn refuses(&self, operation: &str) -> Option<Refusal> {
        self.change(|plan| {
            let (refusal, only, times) = plan.refuse.as_mut()?;
            if only.as_ref().is_some_and(|only| only != operation) {
                return None;
            }
            match times {
                Some(0) => return None,
                Some(n) => *n -= 1,
                None => {}
            }
            Some(*refusal)
        })
    }
}

/// Counts and refuses signed requests; turns away the others.
pub(super) struct Gate(pub(super) Arc<Faults>);

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "a signature is required"));
        }
        let operation = context.s3_op().name();
        *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(operation.to_owned()).or_default() += 1;
        match self.0.refuses(operation) {
            None => Ok(()),
            Some(Refusal::SlowDown) => Err(s3_error!(SlowDown)),
            Some(Refusal::InternalError) => Err(s3_error!(InternalError)),
            Some(Refusal::AccessDenied) => Err(s3_error!(AccessDenied)),
            Some(Refusal::RequestTimeTooSkewed) => Err(s3_error!(RequestTimeTooSkewed)),
            Some(Refusal::NotImplemented) => Err(s3_error!(NotImplemented)),
        }
    }
}
