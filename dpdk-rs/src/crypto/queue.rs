//! A queue pair: packets in, the same packets back, in order.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::device::{CryptoSession, Shared};
use super::{MAX_AAD, MAX_ICV, MAX_IV};
use crate::burst::Burst;
use crate::error::Error;
use crate::mbuf::Mbuf;
use crate::sys;

/// Operations that are taken from the device in one call.
const DEQUEUE: usize = 64;
/// How often a queue that is dropped asks its device for what it still has.
const LAST_POLLS: usize = 1 << 20;

/// What of a packet is worked on: ranges within the data of its first segment. How many bytes of the arrays count is
/// the session's to say.
#[derive(Clone, Debug)]
pub struct CryptoWork {
    /// What is encrypted or decrypted, in place.
    pub cipher: Range<u32>,
    /// What is authenticated; an AEAD authenticates the ciphertext and the AAD.
    pub authenticated: Range<u32>,
    /// The IV: of an AEAD, the nonce.
    pub iv: [u8; MAX_IV],
    /// Additional authenticated data.
    pub aad: [u8; MAX_AAD],
    /// The ICV that was received, for a session that opens.
    pub icv: [u8; MAX_ICV],
    /// Where the ICV goes, for a session that seals. Its place may be part of what is authenticated: it is written last.
    pub icv_at: u32,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CryptoStatus {
    /// It is authentic, and decrypted; or it is encrypted, and its ICV in place.
    Done,
    /// Its ICV is wrong. What it holds means nothing.
    AuthFailed,
    /// The device could not do it, for another reason. What it holds means nothing.
    Failed,
}

/// A queue pair of a crypto device, with the packets that the device has. Each carries a `T`.
///
/// Packets come back in the order in which they were pushed, whatever the order in which the device is done with them.
/// It can be sent to the thread that polls it, but not shared.
pub struct CryptoQueue<T> {
    queue_pair: u16,
    /// An operation for each slot. Slots are used in turn: they are a ring, so that operations lie in it in order.
    ops: Box<[NonNull<sys::rte_crypto_op>]>,
    slots: Box<[Slot<T>]>,
    /// How many packets have been pushed.
    pushed: u64,
    /// How many of them the device has taken.
    taken: u64,
    /// How many of those were given out again.
    given: u64,
    device: Arc<Shared>,
    not_sync: PhantomData<Cell<()>>,
}

struct Slot<T> {
    carried: Option<T>,
    /// A share in the packet's session. Of neighbours with one session the last has it: slots are emptied in order.
    session: Option<Arc<CryptoSession>>,
    status: Option<CryptoStatus>,
    /// Where the ICV goes that the session makes; empty if it makes none.
    made_icv: Range<usize>,
}

impl<T> Slot<T> {
    const EMPTY: Slot<T> = Slot { carried: None, session: None, status: None, made_icv: 0..0 };
}

// SAFETY: the operations belong to this queue alone, and a queue pair may be used by any one thread at a time.
unsafe impl<T: Send> Send for CryptoQueue<T> {}

impl<T> CryptoQueue<T> {
    pub(super) fn new(device: &Arc<Shared>, queue_pair: u16, depth: u16, socket: i32) -> Result<Self, Error> {
        let pool = device.op_pool(depth, socket)?;
        // SAFETY: the pool exists, and has as many operations as there are slots, whose numbers they keep.
        let op = |slot| NonNull::new(unsafe { sys::shim_crypto_op_alloc(pool.as_ptr(), slot) });
        let ops: Option<Box<[_]>> = (0..u64::from(depth)).map(op).collect();
        let ops = ops.ok_or_else(|| Error::CryptoDevice {
            device: String::new(),
            problem: format!("a new pool has fewer than {depth} operations"),
        })?;
        let slots = (0..depth).map(|_| Slot::EMPTY).collect();
        let device = Arc::clone(device);
        Ok(Self { queue_pair, ops, slots, pushed: 0, taken: 0, given: 0, device, not_sync: PhantomData })
    }

    /// Packets that are in it: waiting for the device, with the device, and done.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        (self.pushed - self.given) as usize
    }

    /// Whether no packet is in it.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pushed == self.given
    }

    /// Packets that can be in it.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    fn index(&self, number: u64) -> usize {
        // The depth is a power of two.
        (number as usize) & (self.slots.len() - 1)
    }

    /// Puts a packet in. The device sees it with the next [`CryptoQueue::submit`].
    ///
    /// # Errors
    /// The packet, if the queue is full, the packet is not exclusive and in one piece, what is to be worked on lies
    /// outside of it, or the session is another device's.
    #[inline]
    pub fn push(
        &mut self,
        packet: Mbuf,
        session: &Arc<CryptoSession>,
        work: &CryptoWork,
        carried: T,
    ) -> Result<(), (Mbuf, T)> {
        let len = packet.data_range().len() as u64;
        let fits = |range: &Range<u32>| range.start <= range.end && u64::from(range.end) <= len;
        let made_icv = match session.made_icv_len() {
            0 => 0..0,
            icv_len => work.icv_at..work.icv_at.saturating_add(icv_len.into()),
        };
        let ranges = [&work.cipher, &work.authenticated, &made_icv];
        let sound = ranges.into_iter().all(fits) && packet.is_contiguous() && packet.is_exclusive();
        let at = self.index(self.pushed);
        let before = self.index(self.pushed.wrapping_sub(1));
        if !sound || self.len() == self.slots.len() || session.device() != self.device.id {
            return Err((packet, carried));
        }
        let Some(op) = self.ops.get(at).copied() else { return Err((packet, carried)) };
        let passed_on = match self.slots.get_mut(before).map(|slot| &mut slot.session) {
            Some(last) if last.as_ref().is_some_and(|last| Arc::ptr_eq(last, session)) => last.take(),
            _ => None,
        };
        let raw = sys::shim_crypto_work {
            cipher_at: work.cipher.start,
            cipher_len: work.cipher.end - work.cipher.start,
            auth_at: work.authenticated.start,
            auth_len: work.authenticated.end - work.authenticated.start,
            iv: work.iv,
            aad: work.aad,
            icv: work.icv,
        };
        let session = passed_on.unwrap_or_else(|| Arc::clone(session));
        let (is_aead, raw_session) = (i32::from(session.is_aead()), session.as_ptr());
        match self.slots.get_mut(at) {
            Some(slot) => {
                let made_icv = made_icv.start as usize..made_icv.end as usize;
                *slot = Slot { carried: Some(carried), session: Some(session), status: None, made_icv };
            }
            // There are as many slots as operations.
            None => return Err((packet, carried)),
        }
        // SAFETY: the slot is free, so the device doesn't have its operation; the ranges are within the packet, which the
        // operation owns from here on; a slot that is emptied no sooner has a share in the session.
        unsafe {
            sys::shim_crypto_op_prepare(op.as_ptr(), packet.into_raw(), raw_session, is_aead, &raw const raw);
        }
        self.pushed += 1;
        Ok(())
    }

    /// Hands the device what waits for it, as far as it takes it; what it doesn't take waits on.
    #[inline]
    pub fn submit(&mut self) {
        while self.taken < self.pushed {
            let at = self.index(self.taken);
            let count = (self.pushed - self.taken).min((self.slots.len() - at) as u64) as u16;
            let Some(ops) = self.ops.get_mut(at..) else { return };
            // SAFETY: the first `count` operations from there on are prepared, and the device doesn't have them.
            let n = unsafe {
                sys::rte_cryptodev_enqueue_burst(self.device.id, self.queue_pair, ops.as_mut_ptr().cast(), count)
            };
            let n = n.min(count);
            self.taken += u64::from(n);
            if n < count && !self.skip_refused() {
                return;
            }
        }
    }

    /// Ends the next packet here if the driver has refused it for what it is; false where the device is only full.
    #[cold]
    fn skip_refused(&mut self) -> bool {
        let at = self.index(self.taken);
        let (Some(op), Some(slot)) = (self.ops.get(at), self.slots.get_mut(at)) else { return false };
        // SAFETY: the operation is this queue's, as the device has not taken it.
        let refused = unsafe { sys::shim_crypto_op_status(op.as_ptr()) } != sys::SHIM_CRYPTO_NOT_PROCESSED;
        if refused {
            slot.status = Some(CryptoStatus::Failed);
            self.taken += 1;
        }
        refused
    }

    /// Submits what waits, then takes back packets that are done, as far as `burst` has room, and tells what became of
    /// each, in the order of the burst; returns how many. Never waits.
    #[inline]
    pub fn poll<const N: usize>(&mut self, burst: &mut Burst<N>, mut done: impl FnMut(T, CryptoStatus)) -> usize {
        self.submit();
        self.dequeue();
        let mut count = 0;
        while self.given < self.taken && !burst.is_full() {
            let at = self.index(self.given);
            let (Some(op), Some(slot)) = (self.ops.get(at), self.slots.get_mut(at)) else { break };
            // Nobody overtakes a packet that the device isn't done with.
            let Some(status) = slot.status else { break };
            let Some(carried) = slot.carried.take() else { break };
            // SAFETY: the device has given the operation back, or has not taken it; the packet was its own since `push`.
            let packet = unsafe { sys::shim_crypto_op_take_packet(op.as_ptr()) };
            // The share in the session goes with the slot.
            let Slot { made_icv, .. } = std::mem::replace(slot, Slot::EMPTY);
            self.given += 1;
            if let Some(packet) = NonNull::new(packet) {
                // SAFETY: `push` gave ownership of this packet to the operation, from which it was taken just now.
                let mut packet = unsafe { Mbuf::from_raw(packet) };
                let is_whole = status != CryptoStatus::Done || put_icv(*op, &mut packet, made_icv);
                let status = if is_whole { status } else { CryptoStatus::Failed };
                let _ = burst.push(packet);
                done(carried, status);
                count += 1;
            }
        }
        count
    }

    /// Takes operations back from the device.
    fn dequeue(&mut self) {
        if self.given == self.taken {
            return;
        }
        let mut ops = [std::ptr::null_mut(); DEQUEUE];
        // SAFETY: this is the only handle of the queue pair, and there is room for so many pointers.
        let n = unsafe {
            sys::rte_cryptodev_dequeue_burst(self.device.id, self.queue_pair, ops.as_mut_ptr(), DEQUEUE as u16)
        };
        for op in ops.into_iter().take(n.into()) {
            // SAFETY: the device gives back what it was given: an operation of this queue.
            let (slot, status) = unsafe { (sys::shim_crypto_op_slot(op), sys::shim_crypto_op_status(op)) };
            let status = match status {
                status if status == sys::SHIM_CRYPTO_SUCCESS => CryptoStatus::Done,
                status if status == sys::SHIM_CRYPTO_AUTH_FAILED => CryptoStatus::AuthFailed,
                _ => CryptoStatus::Failed,
            };
            if let Some(slot) = self.slots.get_mut(slot as usize) {
                slot.status = Some(status);
            }
        }
    }
}

/// Puts the ICV that an operation has made, if it has, into its packet. False where that has no place for it, which `push`
/// doesn't let come about.
#[inline]
fn put_icv(op: NonNull<sys::rte_crypto_op>, packet: &mut Mbuf, place: Range<usize>) -> bool {
    if place.is_empty() {
        return true;
    }
    let place = packet.data_mut().ok().and_then(|data| data.get_mut(place)).filter(|place| place.len() <= MAX_ICV);
    let Some(place) = place else { return false };
    // SAFETY: the device has given the operation back, whose ICV has `MAX_ICV` bytes.
    unsafe { sys::shim_crypto_op_icv(op.as_ptr(), place.as_mut_ptr(), place.len() as u8) };
    true
}

impl<T> Drop for CryptoQueue<T> {
    fn drop(&mut self) {
        for _ in 0..LAST_POLLS {
            if self.is_empty() {
                break;
            }
            self.poll(&mut Burst::<DEQUEUE>::new(), |_, _| ());
        }
        if self.given == self.taken {
            for op in &self.ops {
                // SAFETY: the device has none of the operations.
                unsafe { sys::shim_crypto_op_free(op.as_ptr()) };
            }
        } else {
            // The device may still write to what it has: neither packets nor operations nor sessions are ever used again.
            for slot in &mut self.slots {
                std::mem::forget(slot.session.take());
            }
        }
    }
}

impl<T> fmt::Debug for CryptoQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CryptoQueue")
            .field("queue_pair", &self.queue_pair)
            .field("len", &self.len())
            .field("depth", &self.depth())
            .finish_non_exhaustive()
    }
}
