//! Joining tensors and splitting vectors.

use candle_core::Shape;

use super::*;

fn shapes() -> impl Strategy<Value = Vec<Vec<usize>>> {
    // One tensor is longer than a thread block's share, and shapes have up to three dimensions.
    let shape = prop_oneof![
        prop::collection::vec(1usize..20, 0..=3),
        Just(vec![3, 700]),
        (1usize..40, 1usize..40).prop_map(|(rows, width)| vec![rows, width]),
        Just(vec![0, 5]),
    ];
    prop::collection::vec(shape, 1..8)
}

fn count(shapes: &[Vec<usize>]) -> usize {
    shapes.iter().map(|shape| shape.iter().product::<usize>()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn join_then_split_and_assign(shapes in shapes(), seed: u64, turned: bool) {
        prop_assume!(count(&shapes) > 0);
        let ops = [cuda(), &Reference as &dyn Ops];
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let tensor = |shape: &Vec<usize>| {
                let tensor = Tensor::from_vec(random(seed, shape), &shape[..], CPU).unwrap().to_dtype(dtype).unwrap();
                // A matrix that is transposed in memory.
                if turned && shape.len() == 2 { tensor.t().unwrap().contiguous().unwrap().t().unwrap() } else { tensor }
            };
            let tensors: Vec<Tensor> = shapes.iter().map(tensor).collect();
            let joined = ops.map(|ops| ops.join(&tensors.iter().collect::<Vec<_>>()).unwrap());
            prop_assert_eq!(joined[0].dims(), &[count(&shapes)]);
            prop_assert_eq!(bits(&joined[0]), bits(&joined[1]));
            let sizes: Vec<Shape> = tensors.iter().map(|tensor| tensor.shape().clone()).collect();
            for ops in ops {
                let vars = ops.split(&joined[0], &sizes, dtype).unwrap();
                let zeros: Vec<Var> = sizes.iter().map(|shape| Var::zeros(shape, dtype, CPU).unwrap()).collect();
                ops.assign(&joined[0], &zeros.iter().collect::<Vec<_>>()).unwrap();
                for ((tensor, var), assigned) in tensors.iter().zip(&vars).zip(&zeros) {
                    prop_assert!(var.is_variable() && var.dtype() == dtype);
                    let wide = |tensor: &Tensor| bits(&tensor.to_dtype(DType::F32).unwrap());
                    prop_assert_eq!(wide(var), wide(tensor));
                    prop_assert_eq!(wide(assigned), wide(tensor));
                }
            }
        }
    }
}

#[test]
fn tensors_of_different_types_are_joined() {
    let [a, b] =
        [DType::BF16, DType::F32].map(|dtype| Tensor::new(&[1.5f32, 2.0], CPU).unwrap().to_dtype(dtype).unwrap());
    for ops in [cuda(), &Reference] {
        assert_eq!(ops.join(&[&a, &b]).unwrap().to_vec1::<f32>().unwrap(), [1.5, 2.0, 1.5, 2.0]);
    }
}

/// A gradient flows to the new variables, and none from a joined vector.
#[test]
fn new_variables_have_gradients() {
    for ops in [cuda(), &Reference] {
        let start = var(1, &[6]);
        let vector = ops.join(&[start.as_tensor()]).unwrap();
        let parts = ops.split(&vector, &[Shape::from((2, 2)), Shape::from(2)], DType::F32).unwrap();
        let gradients = (parts[0].sqr().unwrap().sum_all().unwrap() + vector.sum_all()).unwrap().backward().unwrap();
        assert!(
            max_difference(gradients.get(&parts[0]).unwrap(), &(parts[0].as_detached_tensor() * 2.0).unwrap()) < 1e-6
        );
        assert!(gradients.get(&start).is_none());
    }
}

#[test]
fn vectors_of_another_length_are_rejected() {
    let vector = Tensor::zeros(5, DType::F32, CPU).unwrap();
    for ops in [cuda(), &Reference] {
        let error = ops.split(&vector, &[Shape::from(4)], DType::F32).unwrap_err().to_string();
        assert!(error.contains("expected a vector of 4 elements, found 5"), "{error}");
        assert!(ops.assign(&vector, &[&var(1, &[6])]).is_err());
        assert!(ops.join(&[]).is_err());
    }
}
