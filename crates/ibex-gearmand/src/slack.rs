//! When it is worth giving freed memory back: after a backlog has been worked off.

/// Less than this is not worth the time.
const PEAK_BYTES_MIN: u64 = 16 << 20;

/// The most that jobs have held since memory was last given back.
#[derive(Debug, Default)]
pub(crate) struct Slack {
    peak: u64,
}

impl Slack {
    /// Told at every turn what jobs hold.
    pub(crate) fn saw(&mut self, held: u64) {
        self.peak = self.peak.max(held);
    }

    /// Asked now and then: whether most of the peak is free. Once for each halving, so a backlog that goes slowly costs a few times, and one that
    /// stays costs nothing.
    pub(crate) fn is_worth_giving(&mut self, held: u64) -> bool {
        let is_worth = self.peak >= PEAK_BYTES_MIN && held <= self.peak / 2;
        if is_worth {
            self.peak = held;
        }
        is_worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_for_each_halving_of_a_large_backlog() {
        let mib = |mib: u64| mib << 20;
        let mut slack = Slack::default();
        let mut times = |held: &[u64]| {
            let told = held.iter().map(|held| {
                slack.saw(mib(*held));
                slack.is_worth_giving(mib(*held))
            });
            told.filter(|is_worth| *is_worth).count()
        };
        assert_eq!(times(&[0, 15, 0, 1, 14, 2]), 0, "small");
        assert_eq!(times(&[100, 60, 51]), 0, "most is there");
        assert_eq!(times(&[50, 49, 26, 25, 12, 6, 0, 0]), 3);
        assert_eq!(times(&[40, 0, 0, 40, 0]), 2);
        // One that came and went between two questions.
        slack.saw(mib(90));
        slack.saw(0);
        assert!(slack.is_worth_giving(0) && !slack.is_worth_giving(0));
    }
}
