//! Who has asked for events, and the bounded queue to each.
//!
//! The control thread publishes and never waits: where a subscriber's queue is full the event is lost for that one, and
//! counted. The thread that serves the client takes events out, and tells it how many were lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::proto::{EventKind, EventReport};

/// Events that may wait for a subscriber.
const QUEUE_LENGTH: usize = 4096;

/// Those who get events. Lives on the control thread.
#[derive(Debug, Default)]
pub struct Subscribers(Vec<Subscriber>);

#[derive(Debug)]
struct Subscriber {
    kinds: Vec<EventKind>,
    queue: Sender<EventReport>,
    lost: Arc<AtomicU64>,
}

/// A subscriber's end.
#[derive(Debug)]
pub struct Subscription {
    events: Receiver<EventReport>,
    lost: Arc<AtomicU64>,
}

impl Subscribers {
    /// Adds a subscriber to events of these kinds.
    pub fn add(&mut self, kinds: Vec<EventKind>) -> Subscription {
        let (queue, events) = bounded(QUEUE_LENGTH);
        let lost = Arc::new(AtomicU64::new(0));
        self.0.push(Subscriber { kinds, queue, lost: Arc::clone(&lost) });
        Subscription { events, lost }
    }

    /// Sends an event to all who want its kind; forgets subscribers that have left.
    pub fn publish(&mut self, event: &EventReport) {
        let kind = event.kind();
        self.0.retain(|subscriber| {
            if !kind.is_some_and(|kind| subscriber.kinds.contains(&kind)) {
                return true;
            }
            match subscriber.queue.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    subscriber.lost.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
    }

    /// Subscribers, those included that have left since the last event of their kinds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a subscriber finds.
#[derive(Clone, PartialEq, Debug)]
pub enum Next {
    /// An event.
    Event(EventReport),
    /// None within the time.
    Nothing,
    /// There will be none any more.
    End,
}

impl Subscription {
    /// Waits for the next event. Events that were lost are told as soon as it is known, before those that wait.
    pub fn next(&self, wait: Duration) -> Next {
        match self.lost.swap(0, Ordering::Relaxed) {
            0 => match self.events.recv_timeout(wait) {
                Ok(event) => Next::Event(event),
                Err(RecvTimeoutError::Timeout) => Next::Nothing,
                Err(RecvTimeoutError::Disconnected) => Next::End,
            },
            count => Next::Event(EventReport::Lost { count }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::proto::SaId;
    use crate::types::Spi;

    fn event(spi: u32) -> EventReport {
        let (src, dst) = ("10.1.1.1".parse().unwrap(), "10.10.1.2".parse().unwrap());
        EventReport::SaFirstPacket { sa: SaId { spi: Spi(spi), src, dst, peer: None }, at_ns: 1 }
    }

    #[test]
    fn each_gets_the_kinds_it_wants() {
        let mut subscribers = Subscribers::default();
        let all = subscribers.add(EventKind::ALL.to_vec());
        let other = subscribers.add(vec![EventKind::InvalidSpi]);
        subscribers.publish(&event(256));
        assert_eq!(all.next(Duration::ZERO), Next::Event(event(256)));
        assert_eq!((all.next(Duration::ZERO), other.next(Duration::ZERO)), (Next::Nothing, Next::Nothing));
        drop(all);
        subscribers.publish(&event(257));
        assert_eq!(subscribers.len(), 1, "who left is forgotten");
        drop(subscribers);
        assert_eq!(other.next(Duration::ZERO), Next::End);
    }

    #[test]
    fn a_slow_subscriber_loses_events_and_is_told() {
        let mut subscribers = Subscribers::default();
        let slow = subscribers.add(EventKind::ALL.to_vec());
        let sent = QUEUE_LENGTH as u32 + 10;
        (0..sent).for_each(|spi| subscribers.publish(&event(spi)));
        assert_eq!(slow.next(Duration::ZERO), Next::Event(EventReport::Lost { count: 10 }));
        let kept = std::iter::from_fn(|| match slow.next(Duration::ZERO) {
            Next::Event(event) => Some(event),
            Next::Nothing | Next::End => None,
        });
        assert!(kept.eq((0..sent - 10).map(event)));
    }
}
