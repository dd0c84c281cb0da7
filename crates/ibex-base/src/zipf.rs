//! Ranks by popularity, for load generators and simulations of caches: rank k is drawn in proportion to 1 / k^s.
//!
//! Rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions", 1996): no table, so a
//! billion ranks cost what a hundred do, and fewer than 1.1 draws of the generator for each rank.

use crate::rng::Rng;

/// A sampler of ranks from 1 (the most popular) to `count`.
#[derive(Debug, Clone, PartialEq)]
pub struct Zipf {
    count: f64,
    exponent: f64,
    /// The integral at 1.5, less the weight of rank 1.
    low: f64,
    /// The integral at `count + 0.5`.
    high: f64,
    /// Ranks this close above a draw need no test.
    sure: f64,
}

impl Zipf {
    /// Ranks up to `count` (at least 1) with this exponent (0 is uniform; the web has about 0.7 to 1.1).
    ///
    /// # Panics
    /// If `count` is 0, or the exponent is negative or no number.
    #[must_use]
    pub fn new(count: u32, exponent: f64) -> Self {
        assert!(
            count > 0 && exponent >= 0.0 && exponent.is_finite(),
            "ranks need a count and an exponent from 0"
        );
        let count = f64::from(count);
        let mut zipf = Self {
            count,
            exponent,
            low: 0.0,
            high: 0.0,
            sure: 0.0,
        };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(count + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    /// The next rank.
    pub fn sample(&self, rng: &mut Rng) -> u32 {
        loop {
            let drawn = self.high + rng.fraction() * (self.low - self.high);
            let at = self.inverse(drawn);
            let rank = at.round().clamp(1.0, self.count);
            if rank - at <= self.sure || drawn >= self.integral(rank + 0.5) - self.weight(rank) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a whole number from 1 to a u32"
                )]
                return rank as u32;
            }
        }
    }

    fn weight(&self, rank: f64) -> f64 {
        (-self.exponent * rank.ln()).exp()
    }

    /// The integral of x^-s, up to a constant: (x^(1-s) - 1) / (1-s), which is ln x for s = 1.
    fn integral(&self, x: f64) -> f64 {
        let (log, rest) = (x.ln(), 1.0 - self.exponent);
        if (rest * log).abs() < 1e-8 {
            log
        } else {
            (rest * log).exp_m1() / rest
        }
    }

    fn inverse(&self, y: f64) -> f64 {
        let rest = 1.0 - self.exponent;
        if (rest * y).abs() < 1e-8 {
            y.exp()
        } else {
            // Rounding may bring the argument just below the pole.
            ((rest * y).max(-1.0).ln_1p() / rest).exp()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frequencies against the definition, within five standard deviations of a binomial count.
    #[test]
    fn ranks_come_as_often_as_defined() {
        const DRAWS: u32 = 200_000;
        for exponent in [0.0, 0.7, 0.99, 1.0, 1.1, 2.5] {
            for count in [1_u32, 2, 10, 1000] {
                let zipf = Zipf::new(count, exponent);
                let mut rng = Rng::new(17);
                let mut seen = vec![0_u32; count as usize];
                for _ in 0..DRAWS {
                    seen[zipf.sample(&mut rng) as usize - 1] += 1;
                }
                let weights: Vec<f64> = (1..=count).map(|k| f64::from(k).powf(-exponent)).collect();
                let total: f64 = weights.iter().sum();
                for (rank, (seen, weight)) in seen.iter().zip(&weights).enumerate().take(20) {
                    let share = weight / total;
                    let expected = share * f64::from(DRAWS);
                    let deviation = (expected * (1.0 - share)).sqrt().max(1.0);
                    let off = (f64::from(*seen) - expected).abs();
                    assert!(
                        off <= 5.0 * deviation,
                        "s={exponent} n={count} rank {}: {seen} for {expected:.0}",
                        rank + 1
                    );
                }
            }
        }
    }

    #[test]
    fn ranks_stay_in_range_however_many_there_are() {
        let mut rng = Rng::new(3);
        for exponent in [0.0, 0.5, 1.0, 3.0] {
            let zipf = Zipf::new(u32::MAX, exponent);
            for _ in 0..10_000 {
                assert!(zipf.sample(&mut rng) >= 1);
            }
        }
    }
}
