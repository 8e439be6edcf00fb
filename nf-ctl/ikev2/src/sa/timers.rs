//! What an IKE SA does when time passes: repeat requests, rekey, ask for signs of life, end.

use std::time::Instant;

use super::exchange::Task;
use super::{ChildState, IkeSa, Phase};
use crate::context::Cx;
use crate::event::{ChildDownReason, Failure};

impl IkeSa {
    /// When [`IkeSa::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let established = self.is_established();
        let children = self.children.iter().flat_map(|child| {
            let rekey = established && child.state == ChildState::Installed;
            [rekey.then_some(child.rekey_at), Some(child.expire_at)]
        });
        let delayed = self.delayed.iter().map(|(at, _)| Some(*at));
        [
            self.outstanding.as_ref().map(|outstanding| outstanding.due),
            self.expire_at,
            self.rekey_at.filter(|_| established),
            self.liveness_at(),
        ]
        .into_iter()
        .chain(children)
        .chain(delayed)
        .flatten()
        .min()
    }

    /// When a sign of life will have been missing for too long.
    fn liveness_at(&self) -> Option<Instant> {
        let idle = self.is_established() && self.outstanding.is_none();
        Some(self.last_heard + self.connection.dpd?).filter(|_| idle)
    }

    pub fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.expire_at) {
            self.expire_at = None;
            if self.is_established() {
                self.queue.push_front(Task::DeleteIke { reason: Failure::Expired, command: None });
            } else {
                self.close(cx, Failure::Expired);
                return;
            }
        }
        self.repeat_request(cx);
        if self.is_closed() {
            return;
        }
        let expired = self.expired_children(now);
        for spi in &expired {
            self.remove_child(cx, *spi, ChildDownReason::Expired);
        }
        if !expired.is_empty() {
            self.queue.push_back(Task::DeleteChildren {
                spis: expired,
                reason: ChildDownReason::Expired,
                command: None,
            });
        }
        let (due, later) = std::mem::take(&mut self.delayed).into_iter().partition(|(at, _)| *at <= now);
        self.delayed = later;
        let due: Vec<(Instant, Task)> = due;
        self.queue.extend(due.into_iter().map(|(_, task)| task));
        if self.is_established() {
            let worn: Vec<_> = self
                .children
                .iter_mut()
                .filter(|child| child.state == ChildState::Installed && child.rekey_at <= now)
                .map(|child| {
                    // Until the task begins, the timer has done its part.
                    child.rekey_at = child.expire_at;
                    child.inbound
                })
                .collect();
            self.queue.extend(worn.into_iter().map(|spi| Task::RekeyChild { spi, command: None }));
            if is_due(self.rekey_at) {
                self.rekey_at = None;
                self.queue.push_back(Task::RekeyIke { command: None });
            }
            if is_due(self.liveness_at()) && self.queue.is_empty() {
                self.queue.push_back(Task::Liveness { command: None });
            }
        }
        self.pump(cx);
    }

    fn expired_children(&self, now: Instant) -> Vec<crate::wire::ChildSpi> {
        self.children.iter().filter(|child| child.expire_at <= now).map(|child| child.inbound).collect()
    }

    fn repeat_request(&mut self, cx: &mut Cx<'_>) {
        let rules = self.connection.retransmit;
        let Some(mut outstanding) = self.outstanding.take() else { return };
        if outstanding.due > cx.now {
            self.outstanding = Some(outstanding);
            return;
        }
        if outstanding.repeat(&rules, cx) {
            self.transmit(cx, &outstanding.datagrams);
            self.outstanding = Some(outstanding);
            return;
        }
        let failure = match &self.phase {
            Phase::Closing(reason) => reason.clone(),
            _ => Failure::NoResponse { tries: outstanding.sent, waited: cx.now - outstanding.first_sent },
        };
        outstanding.exchange.abandon(self, cx, &failure);
        self.close(cx, failure);
    }
}
