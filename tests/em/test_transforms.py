"""hemnet.em inside torch.func, forward-mode differentiation, exports and torch.compile.

Derivatives are held against finite differences or against those of plain backward passes.
"""

import io
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from _helpers.fits import CHANNELS, draw, expected_means, features, layer, step
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.utils.flop_counter import FlopCounterMode

from hemnet.em import Unrolled, unroll
from hemnet.em.engine import products

X_BNC, MU_BKC, TANGENT_BNC = draw(2, 9, 4), draw(1, 3, 4, seed=1), draw(2, 9, 4, seed=2)


def fit(x_BNC: Tensor, **options) -> Tensor:
    return unroll(x_BNC, MU_BKC, **({"iterations": 3} | options)).reconstruction


def loss(x_BNC: Tensor, **options) -> Tensor:
    return fit(x_BNC, **options).square().sum()


def backward(function, *inputs: Tensor) -> tuple[Tensor, ...]:
    inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
    return torch.autograd.grad(function(*inputs), inputs)


def finite_difference(function, x: Tensor, tangent: Tensor, size: float = 1e-5) -> Tensor:
    return (function(x + size * tangent) - function(x - size * tangent)) / (2 * size)


# --- forward mode -------------------------------------------------------------------------------------------


def test_forward_mode_equals_finite_differences():
    expected = finite_difference(fit, X_BNC, TANGENT_BNC)
    torch.testing.assert_close(jvp(fit, (X_BNC,), (TANGENT_BNC,))[1], expected, rtol=1e-7, atol=1e-8)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(fit(forward_ad.make_dual(X_BNC, TANGENT_BNC)))
    torch.testing.assert_close(dual.tangent, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["mu", "highway_scale"])
def test_forward_mode_to_means_and_scale_equals_finite_differences(name):
    given = {"mu": MU_BKC, "highway_scale": torch.tensor([0.5, 0.1, -0.3]).double()}

    def function(value: Tensor) -> Tensor:
        inputs = given | {name: value}
        return unroll(X_BNC, inputs["mu"], iterations=3, highway_scale=inputs["highway_scale"]).means

    tangent = draw(*given[name].shape, seed=3)
    expected = finite_difference(function, given[name], tangent)
    torch.testing.assert_close(jvp(function, (given[name],), (tangent,))[1], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("gradient", ["unrolled", "one_step"])
def test_forward_mode_is_the_transpose_of_backward_mode(gradient):
    cotangent = draw(2, 9, 4, seed=4)
    (pulled,) = backward(lambda x: (fit(x, gradient=gradient) * cotangent).sum(), X_BNC)
    pushed = jvp(lambda x: fit(x, gradient=gradient), (X_BNC,), (TANGENT_BNC,))[1]
    torch.testing.assert_close((pushed * cotangent).sum(), (pulled * TANGENT_BNC).sum())


def test_a_mode_that_lets_no_gradient_through_lets_no_tangent_through():
    y, tangent = jvp(lambda x: fit(x, gradient="detached"), (X_BNC,), (TANGENT_BNC,))
    torch.testing.assert_close(y, fit(X_BNC))
    assert not tangent.any()


# --- torch.func ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["unrolled", "one_step"])
def test_functional_gradients_are_those_of_a_backward_pass(gradient):
    (expected,) = backward(lambda x: loss(x, gradient=gradient), X_BNC)
    torch.testing.assert_close(grad(loss)(X_BNC, gradient=gradient), expected)
    torch.testing.assert_close(
        vjp(lambda x: loss(x, gradient=gradient), X_BNC)[1](torch.ones(()).double())[0], expected
    )
    each = vmap(grad(lambda x_NC: loss(x_NC[None], gradient=gradient)))(X_BNC)
    torch.testing.assert_close(each, expected)


def test_jacobians_and_hessians():
    x = X_BNC[:1, :4]
    expected = torch.autograd.functional.jacobian(fit, x)
    torch.testing.assert_close(jacrev(fit)(x), expected)
    torch.testing.assert_close(jacfwd(fit)(x), expected)
    torch.testing.assert_close(hessian(loss)(x), torch.autograd.functional.hessian(loss, x))


def test_vmap_is_a_loop():
    xs = draw(3, 2, 9, 4, seed=5)
    torch.testing.assert_close(vmap(fit)(xs), torch.stack([fit(x) for x in xs]))


@pytest.mark.parametrize("own_parameters", [False, True], ids=["features", "parameters"])
def test_per_sample_gradients_in_training_mode_move_the_means(own_parameters):
    em, x = layer(), features()
    network = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), em)
    for parameter in network.parameters():
        parameter.requires_grad_(own_parameters)
    expected_mean = expected_means(em, network[0](x)).detach()
    weight = network[0].weight

    def one(weight: Tensor, x_CHW: Tensor) -> Tensor:
        return functional_call(network, {"0.weight": weight}, (x_CHW[None],)).square().sum()

    expected = [backward(lambda w, i=i: one(w, x[i]), weight)[0] for i in range(len(x))]
    em._forget()
    given = {"0.weight": weight.detach(), "0.bias": network[0].bias.detach(), "1.means": em.means}

    def as_users_write(weight: Tensor, others: dict[str, Tensor], x_CHW: Tensor) -> Tensor:
        return functional_call(network, {"0.weight": weight, **others}, (x_CHW[None],)).square().sum()

    others = {name: tensor for name, tensor in given.items() if name != "0.weight"}
    each = vmap(grad(as_users_write), in_dims=(None, None, 0))(given["0.weight"], others, x)
    torch.testing.assert_close(each, torch.stack(expected))
    step()
    torch.testing.assert_close(em.means, expected_mean)


def test_an_ensemble_under_vmap_leaves_the_means_of_its_template():
    models = [layer(highway_scale=0.2) for _ in range(2)]
    models[1].means.mul_(2.0)
    x, template = features(), layer(highway_scale=0.2)
    before = template.means.clone()
    parameters, buffers = stack_module_state(models)
    y = vmap(lambda p, b: functional_call(template, (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(y, torch.stack([model(x) for model in models]))
    step()
    assert torch.equal(template.means, before)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"gradient": "implicit"}, "use gradient='unrolled'"),
        ({"engine": "recompute"}, "take engine='auto'"),
        ({"gradient": "detached", "acceleration": "anderson"}, "acceleration='none'"),
    ],
)
def test_what_cannot_be_transformed_says_so(options, remedy):
    for call in (
        lambda: jvp(lambda x: fit(x, **options), (X_BNC,), (TANGENT_BNC,)),
        lambda: grad(lambda x: loss(x, **options))(X_BNC),
    ):
        with pytest.raises((ValueError, RuntimeError), match=remedy):
            call()


# --- exports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
def test_an_export_of_a_network_has_plain_operators_alone(gradient):
    network = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), layer(gradient=gradient)).eval()
    x = torch.randn(2, 3, 5, 4)
    program = torch.export.export(network, (x,))
    assert not [node for node in program.graph.nodes if "hemnet" in str(node.target)]
    torch.testing.assert_close(program.module()(x), network(x))


def test_a_trace_has_plain_operators_alone():
    network = layer().eval()
    with pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(network, features())
    assert "hemnet::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(features()), network(features()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "options",
    [{}, {"assignment": "gaussian", "normalize": "l2"}, {"tolerance": 1e-2}, {"gradient": "implicit"}],
)
def test_torch_s_old_onnx_exporter_takes_the_layer(options):
    """At another size and number of images than it was traced with."""
    onnxruntime = pytest.importorskip("onnxruntime")
    em, file = layer(**options).eval(), io.BytesIO()
    axes = {0: "images", 2: "rows", 3: "columns"}
    torch.onnx.export(
        em, (features(),), file, dynamo=False, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": axes, "y": axes},
    )  # fmt: skip
    x = torch.randn(3, CHANNELS, 7, 2)
    (found,) = onnxruntime.InferenceSession(file.getvalue()).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), em(x).detach(), rtol=1e-5, atol=1e-5)


# --- torch.compile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("first", ["hook", "compile"])
def test_a_gradient_flow_hook_is_called_whether_it_or_the_compilation_comes_first(first, backend):
    em, x, seen = layer(), features(requires_grad=True), []
    torch.compiler.reset()
    compiled = torch.compile(em, backend=backend)
    if first == "compile":
        compiled(x).sum().backward()
    handle = em.register_gradient_flow_hook(lambda flow: seen.append(flow.share))
    compiled(x).square().sum().backward()
    em(x).square().sum().backward()
    torch.testing.assert_close(*seen, rtol=1e-5, atol=1e-5)
    handle.remove()
    compiled(x).sum().backward()
    assert len(seen) == 2


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)], ids=str)
def test_a_gradient_flow_is_filled_where_unroll_is_compiled(backend):
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        result = unroll(x, MU_BKC, iterations=3, record_gradient_flow=True)
        return result.reconstruction, result.gradient_flow.features

    torch.compiler.reset()
    flows = []
    for called in (function, torch.compile(function, backend=backend)):
        y, flow = called(X_BNC.clone().requires_grad_())
        y.square().sum().backward()
        flows.append(flow)
    torch.testing.assert_close(*flows)


# --- the FLOP counter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [0, 1, 3, 9])
@pytest.mark.parametrize("to_features", [True, False])
@pytest.mark.parametrize("keep", [0.0, 1.5, 100.0])
def test_the_flop_counter_tells_the_products_that_are_done(iterations, to_features, keep, monkeypatch):
    done = Counter()
    for name in ("multiply", "gather"):
        monkeypatch.setattr(products, name, counting(getattr(products, name), name, done))
    x, mu = X_BNC.clone().requires_grad_(to_features), MU_BKC.clone().requires_grad_()
    counter = FlopCounterMode(display=False)
    with counter:
        y = unroll(x, mu, iterations=iterations, gradient=Unrolled(keep)).reconstruction
        forward = done.total()
        assert counter.get_total_flops() == forward * 2 * 2 * 9 * 4 * 3
        y.square().sum().backward()
    assert counter.get_total_flops() == done.total() * 2 * 2 * 9 * 4 * 3
    assert forward == 2 * iterations + 1 + (iterations == 0)


def counting(function: Callable, name: str, done: Counter) -> Callable:
    def counted(*args, **kwargs):
        done[name] += len(args[0]) if name == "multiply" else 1  # which sums several products
        return function(*args, **kwargs)

    return counted
