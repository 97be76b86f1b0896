//! Request coalescing: callers that ask while an answer is under way get the next one together. An answer
//! begins after all its callers have asked, so that none gets an older one than it would have got alone.
//! Nothing is kept: what is in memory belongs to callers that wait.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

/// A caller that asks after an answer has been under way for longer does not wait for it.
const SLOW_AFTER: Duration = Duration::from_millis(10);

/// How many answers of one key are under way at most.
const AT_ONCE: usize = 4;

/// The questions that wait, with the spans in which they were asked.
type Waiting<Q, A> = Vec<((Q, Span), oneshot::Sender<A>)>;

/// What questions are told apart by.
pub trait Key: Clone + Eq + Hash + Send + 'static {}

impl<K: Clone + Eq + Hash + Send + 'static> Key for K {}

/// Answers questions of the same key together. Clones share what is under way.
pub struct Coalescer<K, Q, A>(Arc<Inner<K, Q, A>>);

struct Inner<K, Q, A> {
    queues: Mutex<HashMap<K, Queue<Q, A>>>,
    slow_after: Duration,
    tasks: TaskTracker,
}

/// The questions of one key. It is there while an answer is under way.
struct Queue<Q, A> {
    waiting: Waiting<Q, A>,
    under_way: usize,
    /// When the last of them began.
    began: Instant,
}

impl<K, Q, A> Clone for Coalescer<K, Q, A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, Q, A> fmt::Debug for Coalescer<K, Q, A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Coalescer").finish_non_exhaustive()
    }
}

impl<K: Key, Q: Send + 'static, A: Send + 'static> Coalescer<K, Q, A> {
    /// For one key one answer is under way, in a task of `tasks`; others only while the last is slow.
    #[must_use]
    pub fn new(tasks: &TaskTracker) -> Self {
        Self::with(tasks, SLOW_AFTER)
    }

    fn with(tasks: &TaskTracker, slow_after: Duration) -> Self {
        Self(Arc::new(Inner { queues: Mutex::default(), slow_after, tasks: tasks.clone() }))
    }

    /// The answer to a question. `answer` gets the key and one or more questions, and returns as many
    /// answers, in their order; all callers of a key bring the same. `None` if answering has panicked. A
    /// question is answered even if its caller is gone.
    pub async fn ask<F>(
        &self,
        key: K,
        question: Q,
        answer: impl Fn(K, Vec<Q>) -> F + Send + 'static,
    ) -> Option<A>
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        if self.enqueue(&key, question, sender) {
            self.0.tasks.spawn(self.clone().run(key, answer));
        }
        receiver.await.ok()
    }

    /// Whether another answer has to begin.
    fn enqueue(&self, key: &K, question: Q, sender: oneshot::Sender<A>) -> bool {
        let (now, question) = (Instant::now(), (question, Span::current()));
        let mut queues = self.0.queues();
        if let Some(queue) = queues.get_mut(key) {
            queue.waiting.push((question, sender));
            let is_slow = now.saturating_duration_since(queue.began) >= self.0.slow_after;
            let begins = is_slow && queue.under_way < AT_ONCE;
            if begins {
                queue.under_way += 1;
                queue.began = now;
            }
            return begins;
        }
        let queue = Queue { waiting: vec![(question, sender)], under_way: 1, began: now };
        queues.insert(key.clone(), queue);
        true
    }

    /// Answers until no question of the key is waiting.
    async fn run<F>(self, key: K, answer: impl Fn(K, Vec<Q>) -> F + Send)
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        // Callers that are about to ask come first.
        tokio::task::yield_now().await;
        while let Some(waiting) = self.next(&key) {
            let (questions, callers): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            let (questions, mut spans): (Vec<Q>, Vec<Span>) = questions.into_iter().unzip();
            // The answer belongs to the span of one of its questions, and no longer than it takes.
            let span = spans.swap_remove(0);
            let answering = answer(key.clone(), questions).instrument(span);
            let answering = AssertUnwindSafe(answering).catch_unwind();
            // A panic is logged by its hook. Its callers get no answer.
            let answers = answering.await.unwrap_or_default();
            for (caller, answer) in callers.into_iter().zip(answers) {
                // The caller may be gone.
                let _ = caller.send(answer);
            }
        }
    }

    /// The questions that wait. `None` if there are none: then one answer less is under way.
    fn next(&self, key: &K) -> Option<Waiting<Q, A>> {
        let mut queues = self.0.queues();
        let queue = queues.get_mut(key)?;
        if !queue.waiting.is_empty() {
            queue.began = Instant::now();
            return Some(mem::take(&mut queue.waiting));
        }
        queue.under_way -= 1;
        if queue.under_way == 0 {
            queues.remove(key);
        }
        None
    }
}

impl<K, Q, A> Inner<K, Q, A> {
    fn queues(&self) -> MutexGuard<'_, HashMap<K, Queue<Q, A>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;

    use super::*;

    /// Answers that wait for a permit: the number of the answer, how many were asked in it, the question.
    struct Numbered {
        coalescer: Coalescer<&'static str, u32, Answer>,
        permits: Arc<Semaphore>,
        begun: Arc<AtomicUsize>,
    }

    type Answer = (usize, usize, u32);

    impl Numbered {
        fn new(slow_after: Duration) -> Self {
            Self {
                coalescer: Coalescer::with(&TaskTracker::new(), slow_after),
                permits: Arc::new(Semaphore::new(0)),
                begun: Arc::default(),
            }
        }

        fn ask(&self, key: &'static str, question: u32) -> JoinHandle<Option<Answer>> {
            let coalescer = self.coalescer.clone();
            let (permits, begun) = (Arc::clone(&self.permits), Arc::clone(&self.begun));
            let answer = move |_, questions: Vec<u32>| {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                let permits = Arc::clone(&permits);
                async move {
                    permits.acquire().await.unwrap().forget();
                    let count = questions.len();
                    questions.into_iter().map(|question| (number, count, question)).collect()
                }
            };
            tokio::spawn(async move { coalescer.ask(key, question, answer).await })
        }

        /// Waits until so many answers of a key are under way, and so many questions wait.
        async fn until(&self, key: &str, expected: Option<(usize, usize)>) {
            let shown = || {
                let queues = self.coalescer.0.queues();
                queues.get(key).map(|queue| (queue.under_way, queue.waiting.len()))
            };
            while shown() != expected {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn who_asks_while_an_answer_is_under_way_gets_the_next_one() {
        let numbered = Numbered::new(Duration::MAX);
        let first = numbered.ask("key", 0);
        numbered.until("key", Some((1, 0))).await;
        let later = [1, 2, 3].map(|question| numbered.ask("key", question));
        numbered.until("key", Some((1, 3))).await;
        numbered.permits.add_permits(2);
        assert_eq!(first.await.unwrap(), Some((0, 1, 0)));
        let later = join_all(later).await.into_iter().map(|answer| answer.unwrap().unwrap());
        assert_eq!(later.collect::<Vec<_>>(), [(1, 3, 1), (1, 3, 2), (1, 3, 3)]);
        numbered.until("key", None).await;
    }

    #[tokio::test]
    async fn nobody_waits_for_a_slow_answer_as_long_as_few_are_under_way() {
        let numbered = Numbered::new(Duration::ZERO);
        let mut asked = vec![];
        let (few, many) = ((1..=AT_ONCE).map(|few| (few, 0)), (1..3).map(|many| (AT_ONCE, many)));
        for (question, expected) in (0..).zip(few.chain(many)) {
            asked.push(numbered.ask("slow", question));
            numbered.until("slow", Some(expected)).await;
        }
        // No other key waits for it either.
        asked.push(numbered.ask("other", 9));
        numbered.until("other", Some((1, 0))).await;
        numbered.permits.add_permits(asked.len());
        for asked in asked {
            assert!(asked.await.unwrap().is_some());
        }
        numbered.until("slow", None).await;
    }

    #[tokio::test]
    async fn a_caller_that_is_gone_takes_nothing_from_the_others() {
        let numbered = Numbered::new(Duration::MAX);
        let gone = numbered.ask("key", 0);
        numbered.until("key", Some((1, 0))).await;
        gone.abort();
        let other = numbered.ask("key", 1);
        numbered.permits.add_permits(2);
        assert_eq!(other.await.unwrap(), Some((1, 1, 1)));
    }

    #[tokio::test]
    async fn a_panic_ends_one_answer_and_not_the_next() {
        let coalescer = Coalescer::new(&TaskTracker::new());
        let answer = |(), questions: Vec<bool>| async move {
            assert!(questions.iter().all(|good| *good), "a bad question");
            questions
        };
        assert_eq!(coalescer.ask((), false, answer).await, None);
        assert_eq!(coalescer.ask((), true, answer).await, Some(true));
    }
}
