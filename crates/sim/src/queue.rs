//! Events in the order of their time.
//!
//! One heap of all events of a large network does not fit a processor's cache and takes half of the
//! simulation's time. So events wait unsorted in their hour, and only those of the current hour are in
//! a heap.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Something that happens at a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event<K> {
    /// The minute.
    pub(crate) at: u32,
    /// What.
    pub(crate) kind: K,
    /// To whom.
    pub(crate) id: u32,
    /// Of which plan: see there.
    pub(crate) mark: u32,
}

const SPAN: u32 = 60;

/// Events until an end; later ones are dropped.
pub(crate) struct Queue<K> {
    waiting: Vec<Vec<Event<K>>>,
    current: BinaryHeap<Reverse<Event<K>>>,
    /// Index into `waiting` of what is in `current`.
    span: usize,
}

impl<K: Copy + Ord> Queue<K> {
    /// For events before minute `end`.
    pub(crate) fn until(end: u32) -> Self {
        let spans = end.div_ceil(SPAN) as usize;
        Self { waiting: (0..spans).map(|_| Vec::new()).collect(), current: BinaryHeap::new(), span: 0 }
    }

    /// Adds an event, which is not earlier than the last one that was taken.
    pub(crate) fn push(&mut self, event: Event<K>) {
        let span = (event.at / SPAN) as usize;
        if span <= self.span {
            self.current.push(Reverse(event));
        } else if let Some(waiting) = self.waiting.get_mut(span) {
            waiting.push(event);
        }
    }

    /// The next event.
    pub(crate) fn pop(&mut self) -> Option<Event<K>> {
        loop {
            if let Some(Reverse(event)) = self.current.pop() {
                return Some(event);
            }
            self.span += 1;
            let waiting = std::mem::take(self.waiting.get_mut(self.span)?);
            self.current.extend(waiting.into_iter().map(Reverse));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_until_the_end() {
        let mut queue = Queue::until(200);
        let event = |at| Event { at, kind: (), id: at, mark: 0 };
        [150, 10, 61, 60, 11, 199, 260].into_iter().for_each(|at| queue.push(event(at)));
        let first: Vec<u32> = (0..3).filter_map(|_| queue.pop()).map(|e| e.at).collect();
        assert_eq!(first, [10, 11, 60]);
        // In the hour that runs, and in a later one.
        [130, 60].into_iter().for_each(|at| queue.push(event(at)));
        let rest: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(|e| e.at).collect();
        assert_eq!(rest, [60, 61, 130, 150, 199]);
    }
}
