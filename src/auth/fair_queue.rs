//! A queue for places that is fair between networks: a place that becomes free goes to the next network in
//! turn. So the clients of one network, however many wait, delay the others by one turn only.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The network of a client: the first 24 bits of an IPv4 address, or the first 48 of an IPv6 address, the
/// usual allocation for one site (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpAddr);

impl Network {
    /// This machine.
    pub const LOCAL: Self = Self(IpAddr::V4(Ipv4Addr::LOCALHOST));

    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        Self(match ip {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Ipv4Addr::new(a, b, c, 0).into()
            }
            IpAddr::V6(v6) => {
                let [a, b, c, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into()
            }
        })
    }
}

/// The queue is full, and no network has more waiters than that of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The queue. Clones share it.
#[derive(Clone)]
pub struct FairQueue(Arc<Mutex<State>>);

struct State {
    free: usize,
    /// How many waiters there may be.
    capacity: usize,
    /// The waiters of each network, in the order of their turns. No network is empty.
    networks: VecDeque<(Network, VecDeque<oneshot::Sender<Place>>)>,
}

/// A place, free again when it is dropped.
pub struct Place(Option<FairQueue>);

impl FairQueue {
    /// A queue for `places`, with at most `capacity` waiters.
    #[must_use]
    pub fn new(places: usize, capacity: usize) -> Self {
        let networks = VecDeque::new();
        Self(Arc::new(Mutex::new(State { free: places, capacity, networks })))
    }

    /// Waits for a place. While the queue is full, the last waiter of the network that has most of them
    /// gives way; it gets [`Full`].
    pub async fn place(&self, network: Network) -> Result<Place, Full> {
        let waiting = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Place(Some(self.clone())));
            }
            state.enqueue(network)?
        };
        waiting.await.map_err(|_| Full)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enqueue(&mut self, network: Network) -> Result<oneshot::Receiver<Place>, Full> {
        // Those that have given up are no waiters.
        for (_, waiters) in &mut self.networks {
            waiters.retain(|waiter| !waiter.is_closed());
        }
        self.networks.retain(|(_, waiters)| !waiters.is_empty());
        let waiting: usize = self.networks.iter().map(|(_, waiters)| waiters.len()).sum();
        if waiting >= self.capacity {
            let own = self.networks.iter().find(|(of, _)| *of == network);
            let own = own.map_or(0, |(_, waiters)| waiters.len());
            let longest = self.networks.iter_mut().max_by_key(|(_, waiters)| waiters.len());
            match longest {
                // Every network keeps at least one waiter.
                Some((_, waiters)) if waiters.len() > own + 1 => drop(waiters.pop_back()),
                Some(_) | None => return Err(Full),
            }
        }
        let (sender, receiver) = oneshot::channel();
        match self.networks.iter_mut().find(|(of, _)| *of == network) {
            Some((_, waiters)) => waiters.push_back(sender),
            None => self.networks.push_back((network, VecDeque::from([sender]))),
        }
        Ok(receiver)
    }

    /// The waiter whose turn it is.
    fn dequeue(&mut self) -> Option<oneshot::Sender<Place>> {
        let (network, mut waiters) = self.networks.pop_front()?;
        let next = waiters.pop_front();
        if !waiters.is_empty() {
            self.networks.push_back((network, waiters));
        }
        next
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else { return };
        let mut place = Self(Some(queue.clone()));
        let mut state = queue.lock();
        while let Some(waiter) = state.dequeue() {
            match waiter.send(place) {
                Ok(()) => return,
                // The waiter has given up meanwhile.
                Err(returned) => place = returned,
            }
        }
        place.0 = None;
        state.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(third: u8) -> Network {
        Network::of(IpAddr::from([192, 0, third, 7]))
    }

    #[test]
    fn a_network_is_a_24_of_ipv4_or_a_48_of_ipv6() {
        let of = |ip: &str| Network::of(ip.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("192.0.2.254"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:ffff::1"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
    }

    #[tokio::test]
    async fn places_go_to_networks_in_turn() {
        let queue = FairQueue::new(1, 100);
        let first = queue.place(network(1)).await.unwrap();
        let served = Arc::new(Mutex::new(vec![]));
        let mut tasks = vec![];
        for third in [1, 1, 1, 2, 3, 2] {
            let (queue, served) = (queue.clone(), Arc::clone(&served));
            tasks.push(tokio::spawn(async move {
                let _place = queue.place(network(third)).await.unwrap();
                served.lock().unwrap().push(third);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), [1, 2, 3, 1, 2, 1]);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_the_network_that_fills_it_and_no_other() {
        let queue = FairQueue::new(1, 4);
        let first = queue.place(network(1)).await.unwrap();
        let wait = |third| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.place(network(third)).await.map(drop) })
        };
        let mut crowd = vec![];
        for _ in 0..4 {
            crowd.push(wait(1));
            tokio::task::yield_now().await;
        }
        assert_eq!(wait(1).await.unwrap(), Err(Full));
        let other = wait(2);
        tokio::task::yield_now().await;
        // The last of the crowd has given way.
        assert_eq!(crowd.pop().unwrap().await.unwrap(), Err(Full));
        drop(first);
        assert_eq!(other.await.unwrap(), Ok(()));
        for waiter in crowd {
            assert_eq!(waiter.await.unwrap(), Ok(()));
        }
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_loses_no_place() {
        let queue = FairQueue::new(1, 4);
        let first = queue.place(network(1)).await.unwrap();
        let mut gone = tokio::spawn({
            let queue = queue.clone();
            async move { queue.place(network(1)).await.map(drop) }
        });
        tokio::task::yield_now().await;
        gone.abort();
        assert!((&mut gone).await.unwrap_err().is_cancelled());
        drop(first);
        assert!(queue.place(network(2)).await.is_ok());
    }
}
