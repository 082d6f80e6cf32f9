//! Bodies on their way up and down: counted, paced, and never waited for without an end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Sleep, sleep_until, timeout};

use crate::store::s3::bandwidth::Bandwidth;
use crate::store::s3::counts::Counters;
use crate::store::s3::fault::{Fault, FaultKind, causes};

/// Bytes of an upload that are handed over at once where nothing limits them.
const PIECE_BYTES: usize = 256 * 1024;

/// The body of a PUT: bytes that are shared by all attempts.
pub struct UploadBody {
    bytes: Bytes,
    counters: Arc<Counters>,
    bandwidth: Option<Arc<Bandwidth>>,
    /// The wait for the turn of the next piece, when it has been taken.
    turn: Option<Pin<Box<Sleep>>>,
}

impl UploadBody {
    /// The body of one attempt.
    pub fn stream(
        bytes: Bytes,
        counters: &Arc<Counters>,
        bandwidth: Option<&Arc<Bandwidth>>,
    ) -> ByteStream {
        let (counters, bandwidth) = (Arc::clone(counters), bandwidth.map(Arc::clone));
        ByteStream::new(SdkBody::from_body_1_x(Self { bytes, counters, bandwidth, turn: None }))
    }

    fn piece_bytes(&self) -> usize {
        let turn = self.bandwidth.as_ref().map_or(PIECE_BYTES, |bandwidth| bandwidth.turn_bytes());
        turn.min(self.bytes.len())
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.piece_bytes();
        if self.turn.is_none()
            && let Some(bandwidth) = &self.bandwidth
        {
            let turn = sleep_until(bandwidth.reserve(piece));
            self.turn = Some(Box::pin(turn));
        }
        if let Some(turn) = &mut self.turn {
            ready!(turn.as_mut().poll(context));
            self.turn = None;
        }
        self.counters.up(piece);
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// Hands the pieces of a download to `take`, which refuses what it did not ask for.
pub async fn download(
    mut body: ByteStream,
    stall: Duration,
    counters: &Counters,
    bandwidth: Option<&Arc<Bandwidth>>,
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    loop {
        let Ok(piece) = timeout(stall, body.next()).await else {
            let words = format!("the answer stood still for {stall:?}");
            return Err(Fault::new(FaultKind::NoAnswer, words));
        };
        match piece {
            None => return Ok(()),
            // Cut off, or the checksum of the whole is another one.
            Some(Err(error)) => {
                let words = format!("the answer was cut off or damaged: {}", causes(&error));
                return Err(Fault::new(FaultKind::Failed, words));
            }
            Some(Ok(piece)) => {
                counters.down(piece.len());
                take(&piece)?;
                if let Some(bandwidth) = bandwidth {
                    sleep_until(bandwidth.reserve(piece.len())).await;
                }
            }
        }
    }
}
