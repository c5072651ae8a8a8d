"""Build of specprune_ros for pip and for colcon alike.

``build_ext`` runs ROS's own CMake macros on msg/*.msg (CMakeLists.txt) and packs what they
install. It uses the sourced ROS where there is one, otherwise the ROS that lies in the running
Python environment as wheels.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

PACKAGE = 'specprune_ros'
VERSION = '0.1.0'
HERE = Path(__file__).resolve().parent


# Appended to the generated msg/__init__.py.
LOAD_LIBRARIES = '''

def _load_libraries():
    """ROS loads the type support by the name of its library, which must be known by then.

    That holds where ROS's setup file put its folder on LD_LIBRARY_PATH (colcon), and not after
    `pip install` into a virtual environment on top of a sourced ROS.
    """
    import ctypes
    from pathlib import Path
    # <prefix>/lib/pythonX.Y/site-packages/specprune_ros/msg/__init__.py
    for path in Path(__file__).resolve().parents[4].glob("libspecprune_ros__*.so"):
        ctypes.CDLL(str(path))


_load_libraries()
'''


class MessageExtension(Extension):
    """Stands for everything rosidl makes of msg/*.msg; makes the wheel a platform wheel."""

    def __init__(self):
        super().__init__(PACKAGE + '.msg', sources=[])


class BuildModules(build_py):
    """Copies the Python modules; those that are gone from the source go from build/ as well."""

    def run(self):
        if not getattr(self, 'editable_mode', False):
            shutil.rmtree(Path(self.build_lib) / PACKAGE, ignore_errors=True)
        super().run()


class BuildMessages(build_ext):
    """Runs rosidl's CMake macros and packs what they install."""

    def run(self):
        build = Path(self.build_temp).resolve() / 'msgs'
        install = build / 'install'
        shutil.rmtree(install, ignore_errors=True)
        self._cmake(build, install)
        target = HERE / PACKAGE if self.inplace else Path(self.build_lib) / PACKAGE
        generated = install / 'python' / PACKAGE
        (generated / '__init__.py').unlink()  # the hand-written one stays
        shutil.rmtree(target / 'msg', ignore_errors=True)  # messages that are gone by now
        shutil.copytree(generated, target, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns('__pycache__', '*.c'))
        with open(target / 'msg/__init__.py', 'a') as file:
            file.write(LOAD_LIBRARIES)
        self.distribution.data_files.extend(installed_files(install))

    def get_outputs(self):
        return []

    def _cmake(self, build, install):
        env = dict(os.environ)
        prefixes = ros_prefixes()
        env['AMENT_PREFIX_PATH'] = os.pathsep.join(prefixes)
        env['CMAKE_PREFIX_PATH'] = os.pathsep.join(
            prefixes + [p for p in [env.get('CMAKE_PREFIX_PATH')] if p])
        source = build / 'source'
        options = [f'-DCMAKE_PROJECT_{PACKAGE}_INCLUDE={source}/cmake/pip_wheels.cmake',
                   '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF',
                   '-DCMAKE_INSTALL_RPATH=$ORIGIN',
                   '-DPYTHON_INSTALL_DIR=python', f'-DCMAKE_INSTALL_PREFIX={install}',
                   f'-DPython3_EXECUTABLE={sys.executable}']
        if shutil.which('ninja'):
            options += ['-G', 'Ninja']
        # A cache made in another environment (pip's throw-away build environment, another ROS)
        # points at tools that are gone by now.
        made_with = '\n'.join([str(shutil.which('cmake')), env['AMENT_PREFIX_PATH'], *options])
        stamp = build / 'made_with.txt'
        if build.is_dir() and (not stamp.is_file() or stamp.read_text() != made_with):
            shutil.rmtree(build)
        build.mkdir(parents=True, exist_ok=True)
        stamp.write_text(made_with)
        # CMake refuses to export include folders that lie in its source folder, and numpy's do
        # when the virtual environment lies in the checkout: hence a copy.
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        for name in ('CMakeLists.txt', 'package.xml'):
            shutil.copy2(HERE / name, source)
        for name in ('cmake', 'msg'):
            shutil.copytree(HERE / name, source / name)
        subprocess.run(['cmake', '-S', str(source), '-B', str(build / 'cmake'), *options],
                       check=True, env=env)
        subprocess.run(['cmake', '--build', str(build / 'cmake'), '--parallel',
                        '--target', 'install'], check=True, env=env)


def ros_prefixes():
    """Return the ROS prefixes to build against: the sourced ones, or the wheels' own."""
    try:
        import rosidl_generator_py
    except ImportError:
        sys.exit('specprune_ros: no ROS to compile msg/*.msg with. Source a ROS 2 '
                 '(. /opt/ros/<distro>/setup.sh), or install with build isolation (pip install .).')
    generator = Path(rosidl_generator_py.__file__)
    sourced = [p for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    if any((Path(p) / 'share/rosidl_default_generators').is_dir() for p in sourced):
        # The Python half of the generators must come from the same ROS as the CMake half.
        if not any(Path(p) in generator.parents or Path(p).resolve() in generator.resolve().parents
                   for p in sourced):
            sys.exit(f'specprune_ros: a ROS is sourced ({os.pathsep.join(sourced)}), but the '
                     f'message generators are those of {generator.parent}. Use colcon, or '
                     'pip install --no-build-isolation.')
        return sourced
    # The wheels unpack a ROS prefix round site-packages: <prefix>/lib/pythonX.Y/site-packages/.
    return [str(generator.resolve().parents[4])]


def installed_files(install):
    """Return as data_files what rosidl installed beside the Python modules."""
    wanted = ['lib/*.so*', 'include/**/*', f'share/{PACKAGE}/msg/*', f'share/{PACKAGE}/cmake/*',
              'share/ament_index/resource_index/rosidl_interfaces/*']
    files = {}
    for pattern in wanted:
        for path in install.glob(pattern):
            if path.is_file():
                folder = path.parent.relative_to(install).as_posix()
                files.setdefault(folder, []).append(os.path.relpath(path, HERE))
    return sorted(files.items())


def share_files():
    """Return as data_files the folders that are installed under share/specprune_ros."""
    files = {}
    for top in ('launch', 'config', 'models'):
        for path in sorted((HERE / top).rglob('*')):
            relative = path.relative_to(HERE)
            if path.is_file() and not any(p.startswith(('.', '__')) for p in relative.parts):
                folder = f'share/{PACKAGE}/{relative.parent.as_posix()}'
                files.setdefault(folder, []).append(relative.as_posix())
    return sorted(files.items())


def requirements(name):
    """Return the lines of requirements/<name>.txt without comments."""
    lines = (HERE / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


# ROS as wheels. Never in install_requires: where a ROS is sourced, that one is used.
ROS_KILTED = [
    'ros-rclpy[fastrtps]~=9.1.2',
    'ros-ament-index-python~=1.11.0',
    'ros-builtin-interfaces~=2.3.0',
    'ros-diagnostic-msgs~=5.5.1',
    'ros-geometry-msgs~=5.5.1',
    'ros-lifecycle-msgs~=2.3.0',
    'ros-nav-msgs~=5.5.1',
    'ros-rcl-interfaces~=2.3.0',
    'ros-rosgraph-msgs~=2.3.0',
    'ros-rosidl-default-runtime~=1.7.1',
    'ros-sensor-msgs~=5.5.1',
    'ros-std-msgs~=5.5.1',
    'ros-std-srvs~=5.5.1',
    'ros-trajectory-msgs~=5.5.1',
]
ROS_JAZZY = [
    'ros-rclpy[fastrtps]~=7.1.6',
    'ros-ament-index-python~=1.8.1',
    'ros-builtin-interfaces~=2.0.2',
    'ros-diagnostic-msgs~=5.3.6',
    'ros-geometry-msgs~=5.3.6',
    'ros-lifecycle-msgs~=2.0.2',
    'ros-nav-msgs~=5.3.6',
    'ros-rcl-interfaces~=2.0.2',
    'ros-rosgraph-msgs~=2.0.2',
    'ros-rosidl-default-runtime~=1.6.0',
    'ros-sensor-msgs~=5.3.6',
    'ros-std-msgs~=5.3.6',
    'ros-std-srvs~=5.3.6',
    'ros-trajectory-msgs~=5.3.6',
]

setup(
    name=PACKAGE,
    version=VERSION,
    description='A Vision-Language-Action policy for ROS 2 whose visual tokens are pruned',
    license='Apache-2.0',
    packages=find_packages(include=[PACKAGE, PACKAGE + '.*'],
                           exclude=[PACKAGE + '.msg', PACKAGE + '.msg.*']),
    package_data={PACKAGE: ['view/static/*']},
    ext_modules=[MessageExtension()],
    cmdclass={'build_ext': BuildMessages, 'build_py': BuildModules},
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/' + PACKAGE]),
        ('share/' + PACKAGE, ['package.xml']),
        *share_files(),
    ],
    python_requires='>=3.10',
    install_requires=[
        'torch~=2.6',
        'transformers~=5.20',
        'tokenizers~=0.22',
        'safetensors~=0.5',
        'numpy>=1.21,<3',
        'opencv-python-headless>=4.8,<6',  # apt: python3-opencv, the same cv2
        'simplejpeg~=1.8',
        'pin~=4.1',  # apt: pinocchio
        'mujoco>=3.3,<5',
        'rosbags~=0.11',
        'aiohttp~=3.8',  # specprune view
        'rich>=13,<16',
        'matplotlib~=3.10',
        'pyyaml>=5.4,<7',
        'packaging>=21,<27',
    ],
    extras_require={
        'docs': requirements('docs'),
        'ros': ROS_KILTED,
        'ros-jazzy': ROS_JAZZY,
        'ray': ['ray~=2.40'],  # specprune eval --engine ray
        'libero': ['hf-libero==0.1.4', 'mujoco<3.9'],  # suites libero_*; docs/libero.md
        'test': [
            'pytest>=8,<10',
            'pytest-timeout~=2.3',
            'pytest-xdist~=3.6',
            'hypothesis~=6.100',
            'ruff~=0.15',
            'selenium~=4.20',  # with a Chromium and chromedriver; skipped without
        ],
    },
    zip_safe=False,
    entry_points={
        'console_scripts': [
            'specprune = specprune_ros.cli:main',
            'vla_node = specprune_ros.ros.vla_node:main',
            'sim_bridge_node = specprune_ros.ros.sim_bridge_node:main',
            'chunk_player_node = specprune_ros.ros.chunk_player_node:main',
        ],
        # Where other packages register theirs (docs/extend.md): name = module:callable.
        'specprune_ros.pruners': [],
        'specprune_ros.simulators': [],
        'specprune_ros.backbones': [],
    },
)
