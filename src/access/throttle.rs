//! Failed logins per client: who guesses waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::io::Moment;

/// Failures within [`WINDOW`] after which a client's logins are not even looked at.
const FAILURES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Clients watched; beyond it the oldest windows are dropped.
const CLIENTS_MAX: usize = 10_000;

/// The failures of the last minute.
#[derive(Debug, Default)]
pub struct Throttle {
    clients: HashMap<IpAddr, (Moment, u32)>,
}

impl Throttle {
    /// How long this client has to wait; `None` if it may try.
    pub fn wait_of(&self, client: IpAddr, now: Moment) -> Option<Duration> {
        let (since, failures) = self.clients.get(&network_of(client))?;
        let passed = now.since(*since);
        (*failures >= FAILURES_MAX && passed < WINDOW).then(|| WINDOW - passed)
    }

    pub fn failed(&mut self, client: IpAddr, now: Moment) {
        if self.clients.len() >= CLIENTS_MAX {
            self.clients
                .retain(|_, (since, _)| now.since(*since) < WINDOW);
            if self.clients.len() >= CLIENTS_MAX {
                self.clients.clear();
            }
        }
        let entry = self.clients.entry(network_of(client)).or_insert((now, 0));
        if now.since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }

    pub fn succeeded(&mut self, client: IpAddr) {
        self.clients.remove(&network_of(client));
    }
}

/// Who has one IPv6 address has the 2^64 beside it.
fn network_of(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => address.into(),
            None => IpAddr::from((address.to_bits() >> 64 << 64).to_be_bytes()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_often_waits_and_others_do_not() {
        let at = |seconds| Moment::from_start(Duration::from_secs(seconds));
        let (guesser, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut throttle = Throttle::default();
        for _ in 0..FAILURES_MAX {
            assert_eq!(throttle.wait_of(guesser, at(1)), None);
            throttle.failed(guesser, at(1));
        }
        assert!(throttle.wait_of(guesser, at(2)).is_some());
        assert_eq!(throttle.wait_of(other, at(2)), None);
        assert_eq!(throttle.wait_of(guesser, at(62)), None);
        throttle.failed(guesser, at(62));
        assert_eq!(throttle.wait_of(guesser, at(62)), None);
    }
}
