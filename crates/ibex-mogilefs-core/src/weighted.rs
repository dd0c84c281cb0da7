//! Random orders in which heavier items tend to come first. Owns the arithmetic only.

use crate::cluster::Device;
use ibex_base::rng::Rng;
use ibex_mogilefs_proto::DevId;

/// How many of the emptiest disks take part in a draw: enough to spread load, few enough that a nearly full disk is not drawn in a large cluster.
pub(crate) const DRAW_MAX: usize = 20;

/// All of `items` with a positive weight, in a weighted random order.
pub(crate) fn shuffle<T: Copy>(items: &[(T, f64)], rng: &mut Rng) -> Vec<T> {
    let mut left: Vec<(T, f64)> = items
        .iter()
        .copied()
        .filter(|(_, weight)| *weight > 0.0)
        .collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let total: f64 = left.iter().map(|(_, weight)| weight).sum();
        let mut point = rng.fraction() * total;
        let drawn = left.iter().position(|(_, weight)| {
            point -= weight;
            point < 0.0
        });
        // Rounding may leave the point just beyond the last item.
        order.push(left.swap_remove(drawn.unwrap_or(left.len() - 1)).0);
    }
    order
}

/// The emptiest of `devices` in an order weighted by free space. A disk whose usage is unknown counts as almost full.
pub(crate) fn by_free_space<'a>(
    devices: impl IntoIterator<Item = &'a Device>,
    rng: &mut Rng,
) -> Vec<DevId> {
    const UNKNOWN_FREE: f64 = 0.01;
    let mut ranked: Vec<(DevId, f64)> = devices
        .into_iter()
        .map(|device| (device.id, device.free_fraction().unwrap_or(UNKNOWN_FREE)))
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.truncate(DRAW_MAX);
    shuffle(&ranked, rng)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_decides_how_often_an_item_is_first() {
        let mut rng = Rng::new(1);
        let firsts = (0..3000)
            .filter(|_| shuffle(&[('a', 3.0), ('b', 1.0)], &mut rng)[0] == 'a')
            .count();
        assert!((2100..2400).contains(&firsts), "{firsts} of 3000");
    }

    #[test]
    fn every_weighted_item_appears_once() {
        let mut rng = Rng::new(2);
        let mut order = shuffle(&[(1, 0.1), (2, 5.0), (3, 0.0), (4, 1.0)], &mut rng);
        order.sort_unstable();
        assert_eq!(order, [1, 2, 4]);
    }
}
