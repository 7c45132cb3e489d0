//! Whether a request is made again, and after how long.

use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A pause is longer or shorter by up to this part of itself, so that controllers that were
/// refused together do not come back together.
const JITTER: f64 = 0.2;

/// What came of a request, as far as repetition depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered {
        status: u16,
        retry_after: Option<Duration>,
    },
    /// It never reached the BMC.
    NotSent,
    /// It may have been carried out.
    AnswerLost,
    /// The BMC's certificate is not trusted.
    Untrusted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The answer is the answer.
    Take,
    Again {
        after: Duration,
    },
    GiveUp,
}

/// How often and how slowly a BMC is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub retries: u32,
    pub pause_max: Duration,
}

/// `tries`: how many are behind. `repeatable`: carried out twice it is as good as once.
pub fn next(
    outcome: Outcome,
    repeatable: bool,
    tries: u32,
    patience: &Patience,
    jitter: f64,
) -> Next {
    let again = |after: Option<Duration>| {
        if tries > patience.retries {
            return Next::GiveUp;
        }
        let pause = pause(tries, patience.pause_max, jitter);
        Next::Again {
            after: after.map_or(pause, |asked| asked.max(pause)),
        }
    };
    match outcome {
        // Both say that nothing was carried out.
        Outcome::Answered {
            status: 429 | 503,
            retry_after,
        } => again(retry_after),
        Outcome::Answered {
            status: 500 | 502 | 504,
            retry_after,
        } if repeatable => again(retry_after),
        Outcome::Answered { .. } => Next::Take,
        Outcome::NotSent => again(None),
        Outcome::AnswerLost if repeatable => again(None),
        Outcome::AnswerLost | Outcome::Untrusted => Next::GiveUp,
    }
}

/// The pause after the try of that number, counted from one; `jitter` is from 0 to 1.
pub fn pause(tries: u32, pause_max: Duration, jitter: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(16));
    let factor = 1.0 - JITTER + 2.0 * JITTER * jitter.clamp(0.0, 1.0);
    doubled.min(pause_max).mul_f64(factor)
}

/// The seconds of a `Retry-After`; a date is left alone, since a BMC's clock is rarely right.
pub fn retry_after(value: &str) -> Option<Duration> {
    let digits = value.trim();
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| Duration::from_secs(digits.parse().unwrap_or(u64::from(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        retries: 5,
        pause_max: Duration::from_secs(8),
    };

    fn answered(status: u16) -> Outcome {
        Outcome::Answered {
            status,
            retry_after: None,
        }
    }

    fn repeats(outcome: Outcome, repeatable: bool) -> bool {
        matches!(
            next(outcome, repeatable, 1, &PATIENCE, 0.5),
            Next::Again { .. }
        )
    }

    #[test]
    fn what_may_have_happened_is_repeated_only_where_that_is_harmless() {
        for outcome in [answered(429), answered(503), Outcome::NotSent] {
            assert!(
                repeats(outcome, true) && repeats(outcome, false),
                "{outcome:?}"
            );
        }
        for outcome in [
            answered(500),
            answered(502),
            answered(504),
            Outcome::AnswerLost,
        ] {
            assert!(repeats(outcome, true), "{outcome:?}");
            assert!(!repeats(outcome, false), "{outcome:?}");
        }
        for outcome in [
            answered(200),
            answered(400),
            answered(401),
            answered(404),
            answered(501),
        ] {
            assert_eq!(next(outcome, true, 1, &PATIENCE, 0.5), Next::Take);
        }
        assert_eq!(
            next(Outcome::Untrusted, true, 1, &PATIENCE, 0.5),
            Next::GiveUp
        );
    }

    #[test]
    fn pauses_double_to_their_bound_and_tries_end() {
        let millis: Vec<u128> = (1..9)
            .map(|tries| pause(tries, PATIENCE.pause_max, 0.5).as_millis())
            .collect();
        assert_eq!(millis, [200, 400, 800, 1600, 3200, 6400, 8000, 8000]);
        assert_eq!(pause(1, PATIENCE.pause_max, 0.0).as_millis(), 160);
        assert_eq!(pause(1, PATIENCE.pause_max, 1.0).as_millis(), 240);
        assert_eq!(pause(u32::MAX, PATIENCE.pause_max, 0.5).as_millis(), 8000);
        assert_ne!(next(answered(503), false, 5, &PATIENCE, 0.5), Next::GiveUp);
        assert_eq!(next(answered(503), false, 6, &PATIENCE, 0.5), Next::GiveUp);
    }

    #[test]
    fn a_wish_to_wait_is_heeded_and_never_shortens_a_pause() {
        let wish = |seconds| Outcome::Answered {
            status: 429,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let after = |seconds| match next(wish(seconds), false, 1, &PATIENCE, 0.5) {
            Next::Again { after } => after.as_millis(),
            other => panic!("{other:?}"),
        };
        assert_eq!(after(30), 30_000);
        assert_eq!(after(0), 200);
    }

    #[test]
    fn a_wish_to_wait_is_in_seconds() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert!(retry_after("99999999999999999999999").is_some());
        for value in ["", "-1", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"] {
            assert_eq!(retry_after(value), None, "{value}");
        }
    }
}
