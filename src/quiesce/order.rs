//! Runs work on many things in parallel, each after the things that it waits for.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// The most threads at once. Their stacks are small: a guest may name ten thousand containers.
const PARALLEL: usize = 32;
const STACK: usize = 256 * 1024;

/// How often a waiting coordinator wakes up.
const TICK: Duration = Duration::from_millis(20);

/// An event for the observer, whose answer says whether to continue.
pub enum Event<T> {
    /// The work on this one begins.
    Begins(usize),
    /// It has ended with this result.
    Done(usize, T),
    /// Some have ended, and what waited for them has begun: now the results can be written without
    /// a delay. Results that arrive meanwhile come together before the next of these events,
    /// because on some disks a write takes longer than a container takes to stop.
    WriteDown,
    /// Nothing has happened for a moment.
    Look,
}

/// Calls `work(i)` for every `i` of `waits_for`, in parallel, each after everything that it waits
/// for. `observe` is called on the calling thread; if it returns a break, nothing more is begun and
/// running work is not waited for (its threads end by themselves, or with the process).
///
/// `waits_for` must have no circle; see [`acyclic`].
pub fn in_order<T, W>(
    waits_for: &[Vec<usize>],
    work: W,
    mut observe: impl FnMut(Event<T>) -> ControlFlow<()>,
) where
    T: Send + 'static,
    W: Fn(usize) -> T + Send + Sync + 'static,
{
    #[cfg(test)]
    if crate::sys::walk::current().is_some() {
        let _ = one_after_the_other(waits_for, &work, &mut observe);
        return;
    }
    // A break needs no further action than returning.
    let _ = coordinate(waits_for, Arc::new(work), &mut observe);
}

/// The same on this thread, for a walk.
#[cfg(test)]
fn one_after_the_other<T>(
    waits_for: &[Vec<usize>],
    work: &impl Fn(usize) -> T,
    observe: &mut impl FnMut(Event<T>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut missing: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    let waiting = turned_round(waits_for);
    let mut begun: VecDeque<usize> = (0..waits_for.len()).filter(|i| missing[*i] == 0).collect();
    begun.iter().try_for_each(|index| observe(Event::Begins(*index)))?;
    while let Some(index) = begun.pop_front() {
        observe(Event::Look)?;
        observe(Event::Done(index, work(index)))?;
        for waiter in &waiting[index] {
            missing[*waiter] -= 1;
            if missing[*waiter] == 0 {
                observe(Event::Begins(*waiter))?;
                begun.push_back(*waiter);
            }
        }
        observe(Event::WriteDown)?;
    }
    ControlFlow::Continue(())
}

fn coordinate<T, W>(
    waits_for: &[Vec<usize>],
    work: Arc<W>,
    observe: &mut impl FnMut(Event<T>) -> ControlFlow<()>,
) -> ControlFlow<()>
where
    T: Send + 'static,
    W: Fn(usize) -> T + Send + Sync + 'static,
{
    let mut missing: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    let waiting = turned_round(waits_for);
    let mut ready: VecDeque<usize> = (0..waits_for.len()).filter(|i| missing[*i] == 0).collect();
    let (sender, receiver) = channel();
    let mut under_way = 0;
    let mut unwritten = false;
    loop {
        observe(Event::Look)?;
        while under_way < PARALLEL {
            let Some(index) = ready.pop_front() else { break };
            observe(Event::Begins(index))?;
            let (work, sender) = (Arc::clone(&work), sender.clone());
            let started = thread::Builder::new().stack_size(STACK).spawn(move || {
                // Nobody receives it if the coordinator has returned.
                let _ = sender.send((index, work(index)));
            });
            match started {
                Ok(_) => under_way += 1,
                // No thread can be started now: a running one will make room, or a pause helps.
                Err(_) => {
                    ready.push_front(index);
                    if under_way == 0 {
                        thread::sleep(TICK);
                    }
                    break;
                }
            }
        }
        if std::mem::take(&mut unwritten) {
            observe(Event::WriteDown)?;
        }
        if under_way == 0 && ready.is_empty() {
            return ControlFlow::Continue(());
        }
        let first = receiver.recv_timeout(TICK).ok();
        for (index, result) in first.into_iter().chain(receiver.try_iter()) {
            under_way -= 1;
            unwritten = true;
            observe(Event::Done(index, result))?;
            for waiter in &waiting[index] {
                missing[*waiter] -= 1;
                if missing[*waiter] == 0 {
                    ready.push_back(*waiter);
                }
            }
        }
    }
}

/// For each index, the indices that wait for it.
pub fn turned_round(waits_for: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); waits_for.len()];
    for (index, others) in waits_for.iter().enumerate() {
        for other in others.iter().filter(|other| **other < waits_for.len()) {
            waiting[*other].push(index);
        }
    }
    waiting
}

/// The indices, each after those that it waits for; indices in a circle are left out.
pub fn sorted(waits_for: &[Vec<usize>]) -> Vec<usize> {
    let mut missing: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    let waiting = turned_round(waits_for);
    let mut order: Vec<usize> = (0..waits_for.len()).filter(|i| missing[*i] == 0).collect();
    let mut next = 0;
    while let Some(index) = order.get(next).copied() {
        next += 1;
        for waiter in &waiting[index] {
            missing[*waiter] -= 1;
            if missing[*waiter] == 0 {
                order.push(*waiter);
            }
        }
    }
    order
}

/// Removes from `waits_for` what would make something wait for itself, or for what does not exist:
/// if only circles are left, the first one in them waits no more. Returns how many were removed.
pub fn acyclic(waits_for: &mut [Vec<usize>]) -> usize {
    let waiting = turned_round(waits_for);
    let mut missing: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    let mut ready: Vec<usize> = (0..waits_for.len()).filter(|i| missing[*i] == 0).collect();
    let mut done = vec![false; waits_for.len()];
    let mut taken_out = 0;
    for first in 0..waits_for.len() {
        while let Some(index) = ready.pop() {
            done[index] = true;
            for waiter in waiting[index].iter().filter(|waiter| !done[**waiter]) {
                missing[*waiter] -= 1;
                if missing[*waiter] == 0 {
                    ready.push(*waiter);
                }
            }
        }
        if !done[first] {
            let before = waits_for[first].len();
            waits_for[first].retain(|other| done.get(*other) == Some(&true));
            taken_out += before - waits_for[first].len();
            ready.push(first);
        }
    }
    taken_out
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    fn order(waits_for: &[Vec<usize>]) -> Vec<usize> {
        let mut order = Vec::new();
        in_order(
            waits_for,
            |index| index,
            |event| {
                if let Event::Done(index, _) = event {
                    order.push(index);
                }
                ControlFlow::Continue(())
            },
        );
        order
    }

    #[test]
    fn nothing_is_done_before_what_it_waits_for() {
        let waits_for = vec![vec![1, 2], vec![2], vec![], vec![0]];
        assert_eq!(order(&waits_for), [2, 1, 0, 3]);
        assert_eq!(order(&[]), [0; 0]);
    }

    #[test]
    fn what_does_not_wait_is_done_at_once() {
        let barrier = Arc::new(std::sync::Barrier::new(3));
        let mut count = 0;
        // Each waits for the two others: this ends only if all three run at the same time.
        in_order(
            &[vec![], vec![], vec![]],
            move |_| {
                barrier.wait();
            },
            |event| {
                count += usize::from(matches!(event, Event::Done(..)));
                ControlFlow::Continue(())
            },
        );
        assert_eq!(count, 3);
    }

    /// Counts when its thread ends: what the thread has sent can then be received.
    struct Ended(Arc<AtomicUsize>);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    thread_local! {
        static ENDED: RefCell<Option<Ended>> = const { RefCell::new(None) };
    }

    #[test]
    fn what_ends_while_it_is_written_down_is_written_down_together() {
        let (writing, ended) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (is_writing, count) = (Arc::clone(&writing), Arc::clone(&ended));
        let work = move |index| {
            ENDED.set(Some(Ended(Arc::clone(&count))));
            while index > 0 && !is_writing.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        };
        let (mut done, mut told) = (0, Vec::new());
        in_order(&vec![Vec::new(); 8], work, |event| {
            match event {
                Event::Done(..) => done += 1,
                Event::WriteDown => {
                    told.push(done);
                    writing.store(true, Ordering::SeqCst);
                    while ended.load(Ordering::SeqCst) < 8 {
                        thread::yield_now();
                    }
                }
                Event::Begins(_) | Event::Look => {}
            }
            ControlFlow::Continue(())
        });
        assert_eq!(told, [1, 8]);
    }

    #[test]
    fn a_break_waits_for_nothing() {
        let mut looks = 0;
        in_order(
            &[vec![]],
            |_| thread::sleep(Duration::from_secs(600)),
            |_| {
                looks += 1;
                if looks > 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        assert_eq!(looks, 4);
    }

    #[test]
    fn circles_are_opened() {
        let mut circle = vec![vec![1], vec![2], vec![0], vec![0]];
        assert_eq!(acyclic(&mut circle), 1);
        assert_eq!(order(&circle).len(), 4);
        let mut itself = vec![vec![0]];
        assert_eq!(acyclic(&mut itself), 1);
        let mut line = vec![vec![1], vec![2], vec![]];
        assert_eq!(acyclic(&mut line), 0);
        let mut nowhere = vec![vec![7, 1], vec![]];
        assert_eq!(acyclic(&mut nowhere), 1);
        assert_eq!(nowhere, [vec![1], vec![]]);
    }
}
