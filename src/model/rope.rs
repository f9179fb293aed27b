//! Rotary position embedding (Su et al., 2021): the table of angles.

use super::ModelConfig;

/// Cosine and sine of every position and frequency, `[positions][head_dim / 2][cos, sin]`.
///
/// Angles are products of f32 numbers, as in Hugging Face's implementation; their cosines are
/// taken here because a GPU's are inexact for large angles.
pub fn rope_table(config: &ModelConfig, positions: usize) -> Vec<f32> {
    let half = config.head_dim / 2;
    let divisors = match &config.rope_scaling {
        Some(scaling) => scaling.factors(config.head_dim, config.rope_theta),
        None => vec![1.0; half],
    };
    let frequency = |(i, divisor): (usize, f32)| {
        1.0 / config.rope_theta.powf((2 * i) as f32 / config.head_dim as f32) / divisor
    };
    let frequencies: Vec<f32> = divisors.into_iter().enumerate().map(frequency).collect();
    let mut table = Vec::with_capacity(positions * config.head_dim);
    for position in 0..positions {
        for frequency in &frequencies {
            let angle = f64::from(position as f32 * frequency);
            table.extend([angle.cos() as f32, angle.sin() as f32]);
        }
    }
    table
}
