//! Picks the most likely token on the GPU, so that decoding needs no host between tokens.

use super::{ONE, Tensor, Token, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder};

const KERNEL: Kernel = Kernel {
    name: "argmax",
    source: &[include_str!("step.wgsl"), include_str!("argmax.wgsl")],
    storage: &[Read, Write, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    vocab: u32,
    picks: u32,
    pad: [u32; 2],
}

/// Records that the largest of `logits` (1, vocab) becomes the id of `token`, whose position and
/// last key move on by one, and that `picks[position % picks.len()]` is that id.
///
/// Of equals the lowest id wins. If no logit is a number, the pick is `u32::MAX`.
pub fn argmax(r: &mut Recorder, logits: &Tensor, token: &Buffer, picks: &Buffer) -> Result<()> {
    let params =
        Params { vocab: logits.cols() as u32, picks: (picks.size() / 4) as u32, pad: [0; 2] };
    let bindings = [logits.binding(), token.into(), picks.into()];
    r.dispatch(&KERNEL, &[], &params, &bindings, [ONE, ONE, ONE])
}

/// The reference of [`argmax`]'s pick.
pub fn reference(logits: &[f32]) -> u32 {
    let numbers = (0..).zip(logits).filter(|(_, logit)| **logit > f32::NEG_INFINITY);
    let best = numbers.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(u32::MAX, |(id, _)| id)
}

/// Compares kernel and reference, and the token it leaves.
pub async fn parity(context: &Context, logits: &[f32]) -> Result<()> {
    let gpu = Tensor::from(context, logits.len(), logits)?;
    let before = Token { id: 1, position: 6, first_key: 0, last_key: 6 };
    let token = context.storage_from("token", &[before])?;
    let picks = context.storage_from("picks", &[0u32; 4])?;
    check::run(context, 1, |r| argmax(r, &gpu, &token, &picks))?;
    let expected = reference(logits);
    let picks: Vec<u32> = context.read(&picks, 0, 4).await?;
    let after: Vec<Token> = context.read(&token, 0, 1).await?;
    let id = expected.min(logits.len() as u32 - 1);
    let right = after[0] == Token { id, position: 7, first_key: 0, last_key: 7 };
    if picks == [0, 0, 0, expected] && right {
        return Ok(());
    }
    let found = format!("argmax: picked {picks:?} and left {after:?}, not {expected}");
    Err(crate::Error::Gpu(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn picks_what_the_reference_picks() {
        let context = check::test_context().await;
        let mut ties = vec![0.5; 700];
        ties[300] = 2.0;
        ties[44] = 2.0;
        for logits in [
            check::noise(1, 1),
            check::noise(2, 255),
            check::noise(3, 49152),
            ties,
            vec![-1e30, -2e30],
            vec![f32::NEG_INFINITY, -5.0],
        ] {
            parity(&context, &logits).await.unwrap();
        }
    }
}
